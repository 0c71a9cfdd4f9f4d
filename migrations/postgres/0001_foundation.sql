-- Everything the service stores. Times are microseconds since 1970 (UTC), yes/no is 1/0, so that both stores read alike.

-- Which store this is: made once, bound into the audit's chain and its signed checkpoints.
CREATE TABLE store_identity (
    id       BIGINT PRIMARY KEY CHECK (id = 1),
    store_id TEXT NOT NULL CHECK (length(store_id) = 29)
);

CREATE TABLE feed (
    id       BIGINT PRIMARY KEY CHECK (id = 1),
    revision BIGINT NOT NULL CHECK (revision >= 0)
);
INSERT INTO feed (id, revision) VALUES (1, 0);

-- Servers hold keys, and rotations wait for them; tools (the command line) do not.
CREATE TABLE servers (
    id           TEXT PRIMARY KEY,
    started_at   BIGINT NOT NULL,
    heartbeat_at BIGINT NOT NULL,
    holds_keys   BIGINT NOT NULL CHECK (holds_keys IN (0, 1))
);

-- Secrets of the service itself (the key of the audit's output hash), wrapped like masters.
CREATE TABLE secrets (
    name    TEXT PRIMARY KEY,
    kek_id  TEXT NOT NULL,
    wrapped BYTEA NOT NULL CHECK (length(wrapped) = 72)
);

CREATE TABLE profiles (
    id         TEXT PRIMARY KEY CHECK (length(id) = 55),
    canonical  TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE profile_names (
    name       TEXT PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 64),
    profile_id TEXT NOT NULL REFERENCES profiles (id),
    changed_at BIGINT NOT NULL
);

CREATE TABLE rings (
    alias          TEXT PRIMARY KEY CHECK (length(alias) BETWEEN 1 AND 64),
    last_version   BIGINT NOT NULL CHECK (last_version BETWEEN 0 AND 4294967295),
    allow_export   BIGINT NOT NULL CHECK (allow_export IN (0, 1)),
    allow_destroy  BIGINT NOT NULL CHECK (allow_destroy IN (0, 1)),
    rotate_every   BIGINT CHECK (rotate_every > 0),
    next_rotation  BIGINT,
    created_at     BIGINT NOT NULL,
    CHECK ((rotate_every IS NULL) = (next_rotation IS NULL))
);

CREATE TABLE key_versions (
    alias        TEXT NOT NULL REFERENCES rings (alias),
    version      BIGINT NOT NULL CHECK (version BETWEEN 1 AND 4294967295),
    key_id       TEXT NOT NULL UNIQUE CHECK (length(key_id) = 19),
    state        TEXT NOT NULL CHECK (state IN
        ('pending', 'active', 'verify_only', 'disabled', 'compromised', 'pending_destroy', 'destroyed')),
    state_before TEXT CHECK (state_before IN ('pending', 'verify_only', 'disabled', 'compromised')),
    origin       TEXT NOT NULL CHECK (origin IN ('generated', 'imported')),
    kek_id       TEXT,
    wrapped      BYTEA CHECK (length(wrapped) = 72),
    created_at   BIGINT NOT NULL,
    changed_at   BIGINT NOT NULL,
    destroy_at   BIGINT,
    calibrated   BIGINT CHECK (calibrated IN (0, 1)),
    calibration  TEXT,
    PRIMARY KEY (alias, version),
    CHECK ((state = 'destroyed') = (wrapped IS NULL)),
    CHECK ((kek_id IS NULL) = (wrapped IS NULL)),
    CHECK ((state = 'pending_destroy') = (destroy_at IS NOT NULL)),
    CHECK ((state = 'pending_destroy') = (state_before IS NOT NULL)),
    CHECK ((calibrated IS NULL) = (calibration IS NULL))
);
-- Exactly the rule "at most one active", held by the database too.
CREATE UNIQUE INDEX key_versions_one_active ON key_versions (alias) WHERE state = 'active';

CREATE TABLE rotations (
    alias      TEXT PRIMARY KEY REFERENCES rings (alias),
    version    BIGINT NOT NULL,
    forced     BIGINT NOT NULL CHECK (forced IN (0, 1)),
    started_at BIGINT NOT NULL,
    UNIQUE (alias, version),
    FOREIGN KEY (alias, version) REFERENCES key_versions (alias, version)
);

-- No reference to servers: an acknowledgement may outlive its server by a moment. Of a version, so that one that
-- arrives late never counts for the next rotation.
CREATE TABLE rotation_acks (
    alias     TEXT NOT NULL,
    version   BIGINT NOT NULL,
    server_id TEXT NOT NULL,
    acked_at  BIGINT NOT NULL,
    PRIMARY KEY (alias, version, server_id),
    FOREIGN KEY (alias, version) REFERENCES rotations (alias, version) ON DELETE CASCADE
);

CREATE TABLE api_tokens (
    id         TEXT PRIMARY KEY CHECK (length(id) = 16),
    hash       BYTEA NOT NULL CHECK (length(hash) = 32),
    name       TEXT NOT NULL CHECK (length(name) BETWEEN 1 AND 128),
    scopes     TEXT NOT NULL,
    aliases    TEXT,
    policy     TEXT NOT NULL CHECK (policy IN ('off', 'default_on', 'enforced')),
    per_minute BIGINT CHECK (per_minute BETWEEN 1 AND 1000000),
    burst      BIGINT CHECK (burst BETWEEN 1 AND 1000000),
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    revoked_at BIGINT,
    CHECK ((per_minute IS NULL) = (burst IS NULL))
);

-- Answers to requests that carried an idempotency key. An answer may hold a token's secret: it is sealed.
CREATE TABLE idempotency (
    token_id     TEXT NOT NULL CHECK (length(token_id) = 16),
    key          TEXT NOT NULL CHECK (length(key) BETWEEN 1 AND 255),
    attempt      TEXT NOT NULL CHECK (length(attempt) = 29),
    request      TEXT NOT NULL,
    request_mac  BYTEA NOT NULL CHECK (length(request_mac) = 32),
    server_id    TEXT NOT NULL,
    state        TEXT NOT NULL CHECK (state IN ('running', 'done')),
    status       BIGINT CHECK (status BETWEEN 100 AND 599),
    content_type TEXT,
    sealed_body  BYTEA CHECK (length(sealed_body) BETWEEN 40 AND 1048616),
    created_at   BIGINT NOT NULL,
    PRIMARY KEY (token_id, key),
    CHECK ((state = 'done') = (status IS NOT NULL)),
    CHECK ((state = 'done') = (content_type IS NOT NULL)),
    CHECK ((state = 'done') = (sealed_body IS NOT NULL))
);
CREATE INDEX idempotency_created ON idempotency (created_at);

-- seq is given out in the transaction that inserts, under the lock of audit_head: no gaps, and a row is
-- visible as soon as the head counts it.
CREATE TABLE audit_entries (
    seq       BIGINT PRIMARY KEY CHECK (seq >= 1),
    receipt   TEXT NOT NULL CHECK (length(receipt) = 29),
    kind      TEXT NOT NULL CHECK (kind IN ('begin', 'end')),
    at        BIGINT NOT NULL,
    action    TEXT NOT NULL,
    actor     TEXT NOT NULL,
    server    TEXT NOT NULL,
    outcome   TEXT CHECK (outcome IN ('ok', 'refused', 'failed', 'interrupted')),
    alias     TEXT,
    version   BIGINT,
    key_id    TEXT,
    profile   TEXT,
    output    TEXT,
    detail    TEXT NOT NULL,
    UNIQUE (receipt, kind),
    CHECK ((kind = 'end') = (outcome IS NOT NULL))
);
CREATE INDEX audit_entries_at ON audit_entries (at);
CREATE INDEX audit_entries_key ON audit_entries (key_id) WHERE key_id IS NOT NULL;
CREATE INDEX audit_entries_output ON audit_entries (output) WHERE output IS NOT NULL;

-- Begun and not yet completed: an index of work for recovery, not evidence.
CREATE TABLE audit_open (
    receipt TEXT PRIMARY KEY,
    server  TEXT NOT NULL
);

CREATE TABLE audit_head (
    id       BIGINT PRIMARY KEY CHECK (id = 1),
    next_seq BIGINT NOT NULL CHECK (next_seq >= 1)
);
INSERT INTO audit_head (id, next_seq) VALUES (1, 1);

CREATE TABLE audit_epochs (
    number    BIGINT PRIMARY KEY CHECK (number >= 1),
    first_seq BIGINT NOT NULL,
    entries   BIGINT NOT NULL CHECK (entries BETWEEN 1 AND 65536),
    sealed_at BIGINT NOT NULL,
    leaves    BYTEA NOT NULL,
    root      BYTEA NOT NULL CHECK (length(root) = 32),
    chain     BYTEA NOT NULL CHECK (length(chain) = 32),
    CHECK (length(leaves) = entries * 32)
);

CREATE TABLE audit_seal (
    id       BIGINT PRIMARY KEY CHECK (id = 1),
    epochs   BIGINT NOT NULL CHECK (epochs >= 0),
    segments BIGINT NOT NULL CHECK (segments >= 0)
);
INSERT INTO audit_seal (id, epochs, segments) VALUES (1, 0, 0);

-- Where an operator accepted a database that its signed checkpoints contradict: the chain goes on over this row,
-- so that the seam can neither be left out nor edited.
CREATE TABLE audit_segments (
    number          BIGINT PRIMARY KEY CHECK (number >= 1),
    after_epoch     BIGINT NOT NULL CHECK (after_epoch >= 0),
    abandoned_epoch BIGINT NOT NULL CHECK (abandoned_epoch >= 0),
    abandoned_chain BYTEA NOT NULL CHECK (length(abandoned_chain) = 32),
    accepted_at     BIGINT NOT NULL,
    accepted_by     TEXT NOT NULL,
    reason          TEXT NOT NULL CHECK (length(reason) BETWEEN 1 AND 1000)
);

-- How far each key has signed, so that a checkpoint file that was emptied or cut is noticed.
CREATE TABLE audit_signers (
    public_key TEXT PRIMARY KEY CHECK (length(public_key) = 64),
    lines      BIGINT NOT NULL CHECK (lines >= 1),
    epoch      BIGINT NOT NULL CHECK (epoch >= 0)
);

-- Entries are only ever added: this stops mistakes of ours, not an intruder (the hash chain is for those).
CREATE FUNCTION audit_entries_frozen() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'audit entries are append-only'; END $$;
CREATE TRIGGER audit_entries_frozen BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_entries
FOR EACH STATEMENT EXECUTE FUNCTION audit_entries_frozen();
