-- Dumps judged in the background. Texts and keys are not here: `request` names keys and profiles by id, and files lie
-- in the folder of the server that `place` names.
CREATE TABLE jobs (
    id          TEXT PRIMARY KEY CHECK (length(id) = 29),
    token_id    TEXT NOT NULL CHECK (length(token_id) = 16),
    place       TEXT NOT NULL CHECK (length(place) = 29),
    state       TEXT NOT NULL CHECK (state IN ('waiting', 'queued', 'running', 'done', 'failed', 'cancelled')),
    cancel      INTEGER NOT NULL CHECK (cancel IN (0, 1)),
    request     TEXT NOT NULL,
    bytes       INTEGER NOT NULL CHECK (bytes >= 0),
    total_bytes INTEGER NOT NULL CHECK (total_bytes >= 0),
    documents   INTEGER NOT NULL CHECK (documents >= 0),
    tokens      INTEGER NOT NULL CHECK (tokens >= 0),
    detected    INTEGER NOT NULL CHECK (detected >= 0),
    faults      INTEGER NOT NULL CHECK (faults >= 0),
    error       TEXT,
    created_at  INTEGER NOT NULL,
    started_at  INTEGER,
    finished_at INTEGER,
    CHECK ((state IN ('done', 'failed', 'cancelled')) = (finished_at IS NOT NULL)),
    CHECK ((state = 'failed') = (error IS NOT NULL))
) STRICT;
CREATE INDEX jobs_token ON jobs (token_id, created_at, id);
CREATE INDEX jobs_place ON jobs (place, state, created_at);
