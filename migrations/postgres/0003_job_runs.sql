-- How often a job was begun and not stopped in order: what a job that ends its server is known by.
ALTER TABLE jobs ADD COLUMN runs BIGINT NOT NULL DEFAULT 0 CHECK (runs >= 0);
