"""What is promised, which tests show it, and which figures of the soak do: the tables of docs/promises.md.

Data and nothing else; `soak.report` writes them down beside what the last soak has seen.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from . import browser, browsers, clocks, expiry, faults, rollback
from .checker import Rule


class Promise(NamedTuple):
    """A promise.

    Attributes:
        text: in a sentence.
        tests: that show it, ``FILE.py`` or ``FILE.py::TEST`` in ``tests/``.
        seen: the parts of the soak that show it, and which of their figures.
    """

    text: str
    tests: Sequence[str]
    seen: Mapping[str, Sequence[str]] = {}


class Pain(NamedTuple):
    """What people suffer from elsewhere, and the promise that it became here.

    Attributes:
        text: the pain.
        where: the projects whose users reported it.
        answer: what happens here.
        tests: that show it.
    """

    text: str
    where: str
    answer: str
    tests: Sequence[str]


PROMISES = (
    Promise(
        "A forged, damaged or over-long cookie causes no database command, no exception, and no memory that stays.",
        [
            "test_http.py::test_ten_thousand_forged_cookies_cost_nothing",
            "test_tokens.py::test_no_byte_of_a_token_can_be_another",
            "test_attacks.py::test_oversize",
            "test_fuzz.py::test_whatever_comes",
        ],
        {"endurance": ["of them forged", "wrong answers", "growth of resident", "growth of blocks"]},
    ),
    Promise(
        "No token from before a log-in, of an ended session, or overtaken by K newer ones opens a session.",
        [
            "test_attacks.py::test_replay_at_each_distance",
            "test_attacks.py::test_replay_of_a_token_that_is_over",
            "test_interleavings.py::test_what_two_of_four_requests_renew_or_end",
            "test_endings.py::test_a_log_out_amid_requests_and_renewals_of_its_session",
        ],
        {
            "faults": ["old cookies tried", Rule.RESURRECTED],
            "rollback": ["requests with a cookie of an ended session", Rule.RESURRECTED],
            "expiry": ["late requests", expiry.EXPIRED_SERVED, expiry.REVIVED],
        },
    ),
    Promise(
        "No acknowledged write of a distinct key is lost and increments are exact, whatever fails meanwhile (with "
        "`w: majority`). No write crosses a log-in; nobody is in somebody else's session.",
        [
            "test_http.py::test_parallel_requests_lose_nothing",
            "test_machine.py::test_over_mongodb",
            "test_engine.py::test_a_straggler_cannot_write_into_the_session_after_a_log_in",
            "test_soak_faults.py::test_failovers_lose_nothing_and_log_nobody_out",
        ],
        {
            "faults": [
                *("writes acknowledged", "increments acknowledged", "values read"),
                *(Rule.LOST, Rule.MISCOUNTED, Rule.FOREIGN, browsers.FOREIGN),
            ],
            "rollback": ["writes acknowledged by a majority", Rule.LOST, Rule.MISCOUNTED, Rule.FOREIGN],
            "slow": ["writes acknowledged", "acknowledged writes lost", "increments off"],
        },
    ),
    Promise(
        "Rotation logs nobody out: not parallel requests, not lost or late answers, not a failover that takes "
        "rotations back, not a browser that was killed before it wrote its cookies.",
        [
            "test_simulation.py::test_an_honest_browser_is_never_refused",
            "test_interleavings.py::test_a_browser_is_refused_only_where_confirmed_rotations_overtook_it",
            "test_http.py::test_tokens_of_a_twentieth_of_a_second_refuse_nobody",
            "test_soak_rollback.py::test_a_rollback_logs_nobody_out_and_undoes_nothing_durable",
            "test_soak_browser.py::test_a_browser_that_was_killed_is_still_logged_in",
        ],
        {
            "faults": ["browsers", "tokens given", Rule.REFUSED, Rule.REVERTED, browsers.REPLACED, browsers.GAVE_UP],
            "rollback": [rollback.VERIFIED, rollback.ROLLED_BACK, Rule.REFUSED],
            "browser": [browser.KILLED, browser.IN, browser.OUT, browser.ELSEWHERE],
            "slow": ["rotations", "people logged out", "sessions revoked"],
        },
    ),
    Promise(
        "Clocks of application servers may be two minutes apart, one of them five minutes ahead; a jump backwards, a "
        "leap second and a day that was wrong log nobody out, and rotation goes on afterwards.",
        [
            "test_outage.py::test_servers_whose_clocks_differ_log_nobody_out",
            "test_outage.py::test_stragglers_are_late_on_either_server",
            "test_outage.py::test_rotation_goes_on_after_a_clock_was_ahead",
            "test_soak_clocks.py::test_wrong_clocks_log_nobody_out",
        ],
        {"clocks": ["hours of browsing", "requests", "rotations seen", *clocks.LOSSES]},
    ),
    Promise(
        "Only `destroy` deletes a cookie. An outage touches none, and when it is over everyone is still logged in, "
        "within seconds of the database.",
        [
            "test_outage.py::test_when_the_outage_is_over_everyone_is_still_logged_in",
            "test_outage.py::test_an_opening_without_a_database_is_an_error",
            "test_plan.py::test_a_log_out_without_a_database_touches_no_cookie",
            "test_soak_slow.py::test_a_database_that_hangs_or_talks_nonsense",
        ],
        {
            "faults": [
                *("answers 503", faults.ALL_AWAY, browsers.DELETED, browsers.TOUCHED),
                *("recoveries", faults.SLOWEST, faults.SLOW),
            ],
            "slow": ["answers 503 with Retry-After", "cookies deleted", "cookies sent with an error"],
        },
    ),
    Promise(
        "A database that is slow, hangs, is cut off or talks nonsense costs a deadline and the documented 503: no "
        "worker is used up, memory stays flat, and who needs no database does not wait for it.",
        [
            "test_outage.py::test_a_server_that_hangs",
            "test_outage.py::test_answers_that_make_no_sense",
            "test_wsgi.py::test_a_store_that_never_answers_frees_the_thread",
            "test_soak_slow.py::test_a_database_that_hangs_or_talks_nonsense",
        ],
        {
            "slow": [
                *("requests", "answers after their deadline", "errors other than the documented one"),
                *("requests without a session that waited for the database", "recoveries slower than 2 s"),
                *("servers whose memory grew", "servers that left descriptors open"),
            ],
        },
    ),
    Promise(
        "An id that the server did not issue is never adopted, and a token that somebody has planted opens nothing "
        "once its victim has logged in.",
        [
            "test_fixation.py",
            "test_attacks.py::test_an_id_of_his_own",
            "test_attacks.py::test_cookie_tossing",
            "test_attacks.py::test_a_domain_cookie_beside_a_host_cookie",
        ],
    ),
    Promise(
        "Keys change in three steps, and processes are restarted or killed at any moment, without anybody being logged "
        "out.",
        [
            "test_key_change.py::test_nobody_is_logged_out_at_any_step",
            "test_key_change.py::test_two_servers_on_mongodb",
            "test_killed.py::test_killed_between_any_two_steps",
        ],
        {"faults": [faults.KEYS_CHANGED, faults.APPLICATION_RESTARTED, faults.APPLICATION_KILLED, Rule.REFUSED]},
    ),
    Promise(
        "A log-out is not undone: by no write that was under way, no rollback, no TTL monitor that is off or late.",
        [
            "test_endings.py::test_a_log_out_amid_requests_and_renewals_of_its_session",
            "test_engine.py::test_no_write_resurrects_a_session",
            "test_soak_expiry.py::test_what_has_expired_is_refused_whether_it_was_deleted_or_not",
        ],
        {
            "faults": ["log-outs", Rule.RESURRECTED],
            "rollback": ["log-outs acknowledged", Rule.RESURRECTED],
            "expiry": [expiry.STAYED, expiry.STILL_THERE, expiry.GONE, expiry.EXPIRED_SERVED, expiry.LIVING_REFUSED],
        },
    ),
)

PAINS = (
    Pain(
        "The redirect overtakes the save.",
        "express-session",
        "The write is confirmed before the headers leave.",
        [
            "test_http.py::test_a_redirect_reads_what_was_written",
            "test_asgi.py::test_the_headers_wait_for_the_first_byte_of_the_body",
        ],
    ),
    Pain(
        "Parallel requests lose updates.",
        "express-session, Spring Session, fastify-session, Laravel",
        "Each key is written by itself; counters and lists are atomic.",
        [
            "test_http.py::test_parallel_requests_lose_nothing",
            "test_engine.py::test_requests_that_change_different_keys_both_win",
        ],
    ),
    Pain(
        "Rotation logs people out.",
        "Grafana, Pow, Odoo, Auth.js",
        "A token is minted only for who presents the newest one, and old ones are forgiven by activity.",
        ["test_simulation.py::test_an_honest_browser_is_never_refused", "test_http.py::test_log_ins_stick"],
    ),
    Pain(
        "Sessions for bots, health checks and preflights.",
        "Flask-Session, connect-mongo, Litestar",
        "Nothing is stored until something is stored.",
        ["test_engine.py::test_who_stores_nothing_gets_no_session", "test_engine.py::test_garbage_costs_nothing"],
    ),
    Pain(
        "A logged-out session comes back.",
        "Rack (CVE-2025-46336), Django, nextjs-auth0, Vert.x",
        "No write creates a document, and each names the epoch that it was made for.",
        ["test_engine.py::test_no_write_resurrects_a_session", "test_stores.py"],
    ),
    Pain(
        "`Set-Cookie` on every response.",
        "Starlette",
        "Only with a new token.",
        ["test_plan.py::test_nothing_due_and_nothing_done_is_nothing", "test_worlds.py::test_scenario"],
    ),
    Pain(
        "Shared caches replay a cookie.",
        "Flask (CVE-2023-30861, CVE-2026-27205)",
        "`no-store` with a token, `Vary: Cookie` on any look at the session, no token in a public response.",
        [
            "test_engine.py::test_a_public_response_carries_no_token",
            "test_engine.py::test_who_looks_at_the_session_varies",
        ],
    ),
    Pain(
        "Nested changes are not saved.",
        "Flask, Starlette, Spring Session",
        "They are noticed, without a flag.",
        ["test_tracker.py", "test_anonymous.py::test_nested_changes_are_noticed"],
    ),
    Pain(
        "Session fixation; the old id survives a log-in.",
        "aiohttp-session (CVE-2018-1000519), Spring Session",
        "Only ids of the server's own, and a new epoch with each log-in.",
        ["test_fixation.py", "test_engine.py::test_a_renewal_kills_every_older_token_at_once"],
    ),
    Pain(
        '"Unable to find the session to touch".',
        "connect-mongo",
        "A write that matches nothing is an event, and no error.",
        [
            "test_engine.py::test_no_write_resurrects_a_session",
            "test_events.py::test_each_event_is_one_record_with_the_event_in_it",
        ],
    ),
    Pain(
        "Streams, server-sent events and WebSockets cannot save.",
        "aiohttp-session, scs, Sanic-Session",
        "`await session.save()`, fenced by the epoch.",
        [
            "test_asgi.py::test_a_stream_stores_before_during_and_after",
            "test_asgi.py::test_a_socket_notices_that_its_session_has_ended",
        ],
    ),
    Pain(
        "Values that cannot be stored, keys with dots.",
        "Flask-Session, connect-mongo, Spring Data MongoDB",
        "An error that names the key; any text is a key.",
        [
            "test_values.py::test_what_bson_cannot_hold_is_an_error_that_names_the_key",
            "test_values.py::test_two_keys_never_have_one_name",
        ],
    ),
    Pain(
        "The store is down, so the site is.",
        "connect-redis, connect-mongo",
        "A deadline, a 503 with `Retry-After`, or a route that goes on without; no cookie is touched.",
        [
            "test_outage.py::test_a_route_may_go_on_without_a_session",
            "test_outage.py::test_who_has_no_cookie_needs_no_database",
        ],
    ),
    Pain(
        "Races of a log-out are shown as errors.",
        "mozilla-django-oidc",
        "They are events.",
        ["test_endings.py::test_a_log_out_amid_requests_and_renewals_of_its_session"],
    ),
    Pain(
        "No way to log out everywhere, or to list devices.",
        "NextAuth.js, hackathon-starter",
        "`engine.sessions`, `engine.revoke_subject`.",
        ["test_login.py::test_devices", "test_endings.py::test_logging_out_everywhere_amid_requests_and_renewals"],
    ),
    Pain(
        "Traps of the TTL index.",
        "connect-mongodb-session, mongostore",
        "Expiry is judged in code; `setup` makes the index and says what is in its way.",
        [
            "test_mongo.py::test_setup_tells_what_is_in_its_way",
            "test_soak_expiry.py::test_what_has_expired_is_refused_whether_it_was_deleted_or_not",
        ],
    ),
    Pain(
        "A cookie of more than 4,096 bytes vanishes.",
        "Starlette, Litestar",
        "The session moves into the database before it is too long.",
        [
            "test_anonymous.py::test_it_moves_just_before_the_cookie_is_too_long",
            "test_visitors_browser.py::test_it_fills_its_session_until_that_moves",
        ],
    ),
    Pain(
        "A change of the secret logs everyone out.",
        "express-session, Tide",
        "A ring of keys, changed in three steps.",
        ["test_key_change.py::test_nobody_is_logged_out_at_any_step"],
    ),
    Pain(
        "A disconnect cancels the save.",
        "Agno",
        "A commit that began runs to its end.",
        [
            "test_outage.py::test_a_commit_in_a_cancelled_scope_runs_to_its_end",
            "test_asgi.py::test_a_commit_outlives_its_cancelled_request",
        ],
    ),
    Pain(
        "Motor's end of life.",
        "ODMantic",
        "Motor and PyMongo's own async client alike.",
        ["test_stores.py", "test_worlds.py::test_scenario"],
    ),
)
