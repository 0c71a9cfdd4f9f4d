-- Dumps judged in the background. Texts and keys are not here: `request` names keys and profiles by id, and files lie
-- in the folder of the server that `place` names.
CREATE TABLE jobs (
    id          TEXT PRIMARY KEY CHECK (length(id) = 29),
    token_id    TEXT NOT NULL CHECK (length(token_id) = 16),
    place       TEXT NOT NULL CHECK (length(place) = 29),
    state       TEXT NOT NULL CHECK (state IN ('waiting', 'queued', 'running', 'done', 'failed', 'cancelled')),
    cancel      BIGINT NOT NULL CHECK (cancel IN (0, 1)),
    request     TEXT NOT NULL,
    bytes       BIGINT NOT NULL CHECK (bytes >= 0),
    total_bytes BIGINT NOT NULL CHECK (total_bytes >= 0),
    documents   BIGINT NOT NULL CHECK (documents >= 0),
    tokens      BIGINT NOT NULL CHECK (tokens >= 0),
    detected    BIGINT NOT NULL CHECK (detected >= 0),
    faults      BIGINT NOT NULL CHECK (faults >= 0),
    error       TEXT,
    created_at  BIGINT NOT NULL,
    started_at  BIGINT,
    finished_at BIGINT,
    CHECK ((state IN ('done', 'failed', 'cancelled')) = (finished_at IS NOT NULL)),
    CHECK ((state = 'failed') = (error IS NOT NULL))
);
CREATE INDEX jobs_token ON jobs (token_id, created_at, id);
CREATE INDEX jobs_place ON jobs (place, state, created_at);
