-- Times are Unix milliseconds. Run ids sort by time.
CREATE TABLE identity (
    hub   BLOB NOT NULL,
    epoch INTEGER NOT NULL
);

CREATE TABLE nodes (
    id          INTEGER PRIMARY KEY,
    name        TEXT NOT NULL UNIQUE,
    groups      TEXT NOT NULL,          -- names, separated by spaces
    accepted    INTEGER NOT NULL,
    quarantined INTEGER,
    regrouped   INTEGER NOT NULL
);
CREATE TABLE node_keys (
    key   TEXT PRIMARY KEY,
    node  INTEGER NOT NULL,
    until INTEGER
) WITHOUT ROWID;
CREATE INDEX node_keys_node ON node_keys (node);
CREATE TABLE revoked_keys (key TEXT PRIMARY KEY) WITHOUT ROWID;

CREATE TABLE schedules (
    scope   TEXT PRIMARY KEY,           -- all, group:NAME, node:NAME
    counter INTEGER NOT NULL,
    changed INTEGER NOT NULL,
    entries TEXT NOT NULL               -- JSON
) WITHOUT ROWID;

CREATE TABLE triggers (
    run             BLOB PRIMARY KEY,
    submitted       INTEGER NOT NULL,
    deadline        INTEGER NOT NULL,
    client          TEXT NOT NULL,
    request         TEXT NOT NULL,      -- JSON
    job             TEXT NOT NULL,
    nodes           BLOB NOT NULL,      -- ids, 4 bytes each, little-endian, ascending
    cancelled       INTEGER,
    cancelled_nodes BLOB NOT NULL,
    ok              INTEGER,            -- NULL: some node is open
    failed          INTEGER,
    inferred        INTEGER
) WITHOUT ROWID;
CREATE INDEX triggers_alive ON triggers (run) WHERE ok IS NULL OR inferred > 0;
CREATE TABLE progress (
    run     BLOB NOT NULL,
    node    INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    until   INTEGER,
    PRIMARY KEY (run, node)
) WITHOUT ROWID;

CREATE TABLE results (
    id       INTEGER PRIMARY KEY,       -- the cursors' offset
    run      BLOB NOT NULL,
    node     INTEGER NOT NULL,
    attempt  INTEGER NOT NULL,
    source   INTEGER NOT NULL,          -- 0: the node, 1: the hub
    outcome  INTEGER NOT NULL,
    received INTEGER NOT NULL,
    chunked  INTEGER NOT NULL,
    job      TEXT NOT NULL,
    body     BLOB NOT NULL              -- a report, as wire/README.md describes it
);
CREATE UNIQUE INDEX results_key ON results (run, node, attempt, source);
CREATE TABLE awaiting (
    run      BLOB NOT NULL,
    node     INTEGER NOT NULL,
    attempt  INTEGER NOT NULL,
    received INTEGER NOT NULL,
    body     BLOB NOT NULL,
    PRIMARY KEY (run, node, attempt)
) WITHOUT ROWID;
CREATE TABLE chunks (
    id       INTEGER PRIMARY KEY,
    run      BLOB NOT NULL,
    node     INTEGER NOT NULL,
    attempt  INTEGER NOT NULL,
    idx      INTEGER NOT NULL,
    received INTEGER NOT NULL,
    bytes    BLOB NOT NULL
);
CREATE UNIQUE INDEX chunks_key ON chunks (run, node, attempt, idx);
CREATE TABLE missed (
    id       INTEGER PRIMARY KEY,
    node     INTEGER NOT NULL,
    received INTEGER NOT NULL,
    entry    TEXT NOT NULL,
    first    INTEGER NOT NULL,
    last     INTEGER NOT NULL,
    count    INTEGER NOT NULL
);
CREATE UNIQUE INDEX missed_key ON missed (first, node, entry, last);
CREATE TABLE unreadable (
    id       INTEGER PRIMARY KEY,
    node     INTEGER NOT NULL,
    outbox   BLOB NOT NULL,
    seq      INTEGER NOT NULL,
    received INTEGER NOT NULL,
    body     BLOB NOT NULL
);
CREATE UNIQUE INDEX unreadable_key ON unreadable (node, outbox, seq);

CREATE TABLE consumers (
    name   TEXT PRIMARY KEY,
    owner  TEXT NOT NULL,               -- the client that made it
    offset INTEGER NOT NULL,
    seen   INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE audit (
    id      INTEGER PRIMARY KEY,
    time    INTEGER NOT NULL,
    who     TEXT NOT NULL,
    what    TEXT NOT NULL,
    place   TEXT NOT NULL,
    outcome TEXT NOT NULL,
    origin  TEXT NOT NULL
);
