-- Output whose run has no result yet: what retention by size can't free.
CREATE TABLE partial (
    run      BLOB NOT NULL,
    node     INTEGER NOT NULL,
    attempt  INTEGER NOT NULL,
    received INTEGER NOT NULL,      -- the first chunk of it
    bytes    INTEGER NOT NULL,
    PRIMARY KEY (run, node, attempt)
) WITHOUT ROWID;
INSERT INTO partial
    SELECT run, node, attempt, min(received), sum(length(bytes)) FROM chunks c
    WHERE NOT EXISTS (SELECT 1 FROM results r
        WHERE r.run = c.run AND r.node = c.node AND r.attempt = c.attempt AND r.chunked)
    GROUP BY run, node, attempt;
