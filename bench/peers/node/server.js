// express-session with connect-mongo: node server.js PORT MONGODB_URI default|best
"use strict";

const express = require("express");
const session = require("express-session");
const MongoStore = require("connect-mongo").default ?? require("connect-mongo");

const [port, uri, setting] = process.argv.slice(2);
const best = setting === "best";
const DATA = { user: "anna", csrf: "x".repeat(40), visits: 1, basket: ["tea", "milk"], filler: "x".repeat(150) };

const store = MongoStore.create({
  mongoUrl: uri,
  dbName: "bench",
  collectionName: `express-${setting}`,
  ...(best ? { touchAfter: 24 * 3600, stringify: false } : {}),
});
const app = express();
app.disable("x-powered-by");
app.disable("etag");
app.use(session({ secret: "k".repeat(32), store, ...(best ? { resave: false, saveUninitialized: false } : {}) }));

app.get("/:path", async (request, response) => {
  const kept = request.session;
  const { key, wait } = request.query;
  if (wait) await new Promise((resolve) => setTimeout(resolve, Number(wait)));
  let text = "ok";
  switch (request.params.path) {
    case "begin":
      Object.assign(kept, DATA);
      break;
    case "read":
      text = String(kept.user);
      break;
    case "change":
      kept.visits += 1;
      break;
    case "set":
      kept[key] = 1;
      break;
    case "count":
      kept.counter = (kept.counter ?? 0) + 1;
      break;
    case "kept":
      text = `${Object.keys(kept).filter((name) => name.startsWith("own")).length} ${kept.counter ?? 0}`;
      break;
  }
  response.type("text/plain").send(text);
});

app.listen(Number(port), "127.0.0.1");
