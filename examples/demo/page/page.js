// The page: sends requests, and shows what each answer's "engine-report" header says the engine did. See watch.py.

const $ = (id) => document.getElementById(id);
const settings = await (await fetch("settings")).json();
let mine = null;  // the last answer to this browser

// ------------------------------------------------------------------------------------------------------------ requests

async function request(method, path, body) {
  const response = await fetch(path, { method, body });
  const report = response.headers.get("engine-report");
  if (report === null) throw new Error(await response.text());
  return { report: JSON.parse(report), data: await response.json(), at: performance.now() };
}

/** One request of this browser, logged and shown. */
async function ask(method, path, body) {
  const answer = await request(method, path, body);
  log("you", [answer.report]);
  show(answer);
  return answer;
}

/** An older token, presented by the server; then this browser looks what has become of its session. */
async function older(trial, who, output) {
  const response = await fetch(`older/${trial}`, { method: "POST" });
  if (!response.ok) throw new Error(await response.text());
  const { aged, presented } = await response.json();
  if (aged.length) log("fast motion", aged);
  log(who, [presented]);
  await ask("GET", "session/look");
  showPresented(presented);
  tell(output, badge(presented.verdict), presented.holds ? " Accepted. " : " Refused. ", sentence(presented));
}

async function fifty() {
  const before = mine?.report.holds ? mine : await visit();  // else each of the fifty would begin a session
  const numbers = Array.from({ length: 50 }, (_, index) => index + 1);
  const run = String(Date.now());
  const answers = await Promise.all(numbers.map((number) => request("POST", `session/mark/${number}`, run)));
  log("you", answers.map((answer) => answer.report));
  const after = await ask("GET", "session/look");
  const kept = numbers.filter((number) => after.data[`mark ${number}`] === run).length;
  const counted = after.data.marks - (before.data.marks ?? 0);
  const minted = after.report.document.generation - before.report.document.generation;
  const refused = answers.filter((answer) => !answer.report.holds).length;
  tell("fifty-result", `${kept} of 50 keys kept, the counter went up by ${counted}. ` +
    `${minted} ${minted === 1 ? "generation" : "generations"} minted. ${refused || "Nobody"} refused.`);
}

// ------------------------------------------------------------------------------------------------------------- showing

function show(answer) {
  mine = answer;
  const { report, data } = answer;
  const stored = report.holds ? report.document : null;
  $("generation").textContent = stored ? stored.generation : "–";
  $("verdict").textContent = report.verdict;
  $("verdict").className = `verdict ${report.verdict}`;
  $("sentence").textContent = sentence(report);
  $("id").textContent = stored ? stored.id : "no session";
  $("subject").textContent = stored?.subject ?? "nobody";
  $("epoch").textContent = stored ? stored.epoch : "–";
  $("data").replaceChildren(...Object.entries(data).filter(([key]) => !key.startsWith("mark ")).map(([key, value]) =>
    element("div", {}, element("dt", {}, key), element("dd", {}, element("code", {}, JSON.stringify(value))))));
  $("marks").replaceChildren(...("marks" in data ? Array.from({ length: 50 }, (_, index) =>
    element("i", { className: data[`mark ${index + 1}`] ? "kept" : "" })) : []));
  showAge();
  showPresented(null);
}

function showAge() {
  if (!mine?.report.holds) {
    $("age").textContent = "–";
    $("ageing").value = 0;
    return;
  }
  const seconds = mine.report.document.rotated_ago + (performance.now() - mine.at) / 1000;
  $("age").textContent = seconds < 60 ? `${seconds.toFixed(1)} s ago` : `${Math.floor(seconds / 60)} min ago`;
  $("ageing").value = Math.min(seconds, settings.ttl);
  $("ageing").className = seconds < settings.ttl ? "" : "due";
}

/** Marks on the strip what this browser presented last, and what somebody else did (or null). */
function showPresented(other) {
  const newest = (other ?? mine.report).document?.generation ?? -1;
  const yours = mine.report.holds ? mine.report.sent ?? mine.report.presented : null;
  const marks = [[yours, "you"], [other?.verdict === "late" ? null : other?.presented, "copy"]];
  document.querySelectorAll(".marker").forEach((marker) => marker.remove());
  document.querySelectorAll(".cell").forEach((cell, back) => {
    cell.classList.toggle("unborn", back > newest);
    cell.classList.remove("presented");
    for (const [token, who] of marks) {
      if (!token || newest - token.generation !== back) continue;
      cell.classList.add("presented");
      const marker = element("span", { className: "marker" }, who);
      marker.style.gridColumn = back + 1;
      $("strip").append(marker);
    }
  });
}

function sentence({ verdict, document, events, sent, deletes }) {
  const { ttl, window, grace, accepted } = settings;
  if (deletes) return "Logged out: the session has ended and the cookie is deleted.";
  if (events.includes("renewed")) return "A new epoch: this answer brings its first token, every older one is dead.";
  if (events.includes("created")) return "A session begins, and this answer brings its first token.";
  switch (verdict) {
    case "anonymous": return "No cookie came. A session begins once something is stored.";
    case "invalid": return "The cookie does not verify. The database was not asked.";
    case "ended": return document?.ended === "copied"
      ? "The session was revoked when a copied token turned up. The next visit begins a new one."
      : "There is no such session any more. The next visit begins a new one.";
    case "late": return "The token is from an epoch that a log-in or a log-out has ended: an empty session, nothing is "
      + "stored, and nothing is sent over the newer cookie that the browser has.";
    case "current": return `The newest token, minted less than ${ttl} s ago: nothing to rotate.`;
    case "due": return `The newest token, ${ttl} s old or older: whoever presents it has received it, so the next one is `
      + "minted.";
    case "behind": return events.includes("fell_back")
      ? `The token is outside the window of ${window}, but one of the ${accepted} newest (grace ${grace} s): a slow network `
        + "or an old cookie jar, no proof of theft. The newest token is sent again."
      : `One of the ${window} newest tokens` + (sent ? ": an answer was lost, so the next one is sent again."
        : ": the answer with a newer one is still on its way.");
    case "copied": return events.includes("revoked")
      ? `${accepted} newer tokens exist, so two parties hold this session. It is revoked, for both.`
      : `Without grace only the ${window} newest tokens open the session. It goes on for whoever has one of them.`;
    default: return verdict;
  }
}

/** A row for one request, or for several of the same kind. */
function log(who, reports) {
  const path = reports[0].request.replace(/\d+$/, "…");
  const sent = reports.filter((report) => report.sent);
  const generation = (token) => (token ? token.generation : "–");
  const cookies = reports.flatMap((report) => (report.sent ? ["Set-Cookie"] : report.deletes ? ["deletes the cookie"] : []));
  const cells = [
    new Date().toLocaleTimeString("en-GB"),
    who,
    element("code", {}, reports.length > 1 ? `${reports.length} × ${path}` : path),
    generation(reports[0].presented) + (sent.length ? ` → ${generation(sent.at(-1).sent)}` : ""),
    element("span", {}, ...[...counts(reports.map((report) => report.verdict))].map(([verdict, count]) =>
      badge(verdict, count))),
    tally(reports.flatMap((report) => report.commands)).join(", ") || (settings.mongodb ? "nothing" : "memory"),
    tally([...reports.flatMap((report) => report.events), ...(cookies.length ? cookies : ["no cookie"])]).join(", "),
  ];
  $("log").prepend(element("tr", {}, ...cells.map((cell) => element("td", {}, cell))));
  while ($("log").rows.length > 100) $("log").lastChild.remove();
}

const counts = (words) => words.reduce((map, word) => map.set(word, (map.get(word) ?? 0) + 1), new Map());
const tally = (words) => [...counts(words)].map(([word, count]) => (count > 1 ? `${word} ×${count}` : word));
const badge = (verdict, count = 1) =>
  element("b", { className: `verdict ${verdict}` }, count > 1 ? `${verdict} ×${count}` : verdict);

function tell(id, ...content) {
  $(id).replaceChildren(...content);
  $(id).hidden = false;
}

function element(name, properties, ...content) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...content);
  return made;
}

// ------------------------------------------------------------------------------------------------------------- actions

let queue = Promise.resolve();  // one action at a time, in the order of the clicks

function act(work) {
  queue = queue.then(async () => {
    try {
      await work();
      $("trouble").hidden = true;
    } catch (error) {
      tell("trouble", error.message);
    }
  });
}

const visit = () => ask("POST", "session/visit");
const actions = {
  visit,
  fifty,
  few: () => older("few", "a copy", "older-result"),
  strict: () => older("strict", "a copy, grace=0", "older-result"),
  copied: () => older("copied", "a copy", "older-result"),
  "log-in": () => ask("POST", "session/log-in"),
  "log-out": () => ask("POST", "session/log-out"),
  "before-log-in": () => older("before-log-in", "a copy", "log-in-result"),
};
for (const [id, work] of Object.entries(actions)) $(id).addEventListener("click", () => act(work));

$("basket").addEventListener("submit", (event) => {
  event.preventDefault();
  const field = event.target.elements.thing;
  const text = field.value || field.placeholder;
  field.value = "";
  act(() => ask("POST", "session/basket", text));
});

setInterval(() => { if ($("every-second").checked) act(visit); }, 1000);
setInterval(showAge, 100);

// --------------------------------------------------------------------------------------------------------------- start

for (const place of document.querySelectorAll("[data-setting]")) place.textContent = settings[place.dataset.setting];
$("store").textContent = `Sessions are in ${settings.store}.`;
$("store").classList.toggle("memory", !settings.mongodb);
$("ageing").max = settings.ttl;

const { window: windowed, accepted } = settings;
const zones = { window: [1, windowed], grace: [windowed + 1, accepted - 1], copied: [accepted - 1, accepted + 1] };
for (const [zone, [from, to]] of Object.entries(zones)) {
  document.querySelector(`.zone.${zone}`).style.gridColumn = `${from} / ${to + 1}`;
}
for (let back = 0; back <= accepted; back++) {
  const zone = back < windowed ? "window" : back < accepted ? "grace" : "copied";
  const cell = element("span", { className: `cell unborn ${zone}` }, back);
  cell.style.gridColumn = back + 1;
  $("strip").append(cell);
}

act(async () => {
  await visit();
  if (mine.report.verdict !== "anonymous") return;
  await ask("GET", "session/look");
  if (mine.report.verdict === "anonymous") {
    throw new Error("This browser keeps no Secure cookie over http://localhost, as Safari does not. Chromium and Firefox do.");
  }
});
