//! SQL for jobs: dumps judged in the background.

use super::StoreError;
use super::db::{DbRow, Tx, args};
use crate::Timestamp;
use crate::words::{JobCounts, JobCursor, JobFolderId, JobId, JobState, TokenId};

/// A job as stored.
#[derive(Clone, Debug)]
pub struct JobRow {
    /// Its name.
    pub id: JobId,
    /// Who asked for it.
    pub token: TokenId,
    /// Whose folder holds its files.
    pub place: JobFolderId,
    /// Where it stands.
    pub state: JobState,
    /// Whether it is to end.
    pub cancel: bool,
    /// What it does, as the service writes it.
    pub request: String,
    /// How far it is.
    pub counts: JobCounts,
    /// Why it failed.
    pub error: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it first ran.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
}

impl JobRow {
    fn read(row: &DbRow) -> Result<Self, StoreError> {
        Ok(Self {
            id: row.parse("id")?,
            token: row.parse("token_id")?,
            place: row.parse("place")?,
            state: row.parse("state")?,
            cancel: row.flag("cancel")?,
            request: row.text("request")?,
            counts: JobCounts {
                bytes: row.number("bytes")?,
                total_bytes: row.number("total_bytes")?,
                documents: row.number("documents")?,
                tokens: row.number("tokens")?,
                detected: row.number("detected")?,
                faults: row.number("faults")?,
            },
            error: row.opt_text("error")?,
            created_at: row.time("created_at")?,
            started_at: row.opt_time("started_at")?,
            finished_at: row.opt_time("finished_at")?,
        })
    }
}

/// What a page, one job and the next one to run are read by.
macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT id, token_id, place, state, cancel, request, bytes, total_bytes, documents, tokens, detected, \
             faults, error, created_at, started_at, finished_at FROM jobs ",
            $rest
        )
    };
}

/// Larger than any count there is.
fn count(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

impl Tx {
    /// Adds a job that waits, for its upload or its turn.
    pub async fn insert_job(&mut self, row: &JobRow) -> Result<(), StoreError> {
        let sql = "INSERT INTO jobs (id, token_id, place, state, cancel, runs, request, bytes, total_bytes, documents, \
                   tokens, detected, faults, created_at) VALUES ($1, $2, $3, $4, 0, 0, $5, 0, 0, 0, 0, 0, 0, $6)";
        let values = args![
            row.id.as_str(),
            row.token.as_str(),
            row.place.as_str(),
            row.state.name(),
            &row.request,
            row.created_at
        ];
        self.execute(sql, values).await.map(drop)
    }

    /// One job.
    pub async fn job(&mut self, id: &JobId) -> Result<Option<JobRow>, StoreError> {
        let row = self.one(select!("WHERE id = $1"), args![id.as_str()]).await?;
        row.as_ref().map(JobRow::read).transpose()
    }

    /// A token's jobs in the order in which they were made, after a place in it.
    pub async fn jobs_of(
        &mut self,
        token: &TokenId,
        after: Option<&JobCursor>,
        limit: usize,
    ) -> Result<Vec<JobRow>, StoreError> {
        let (at, id) = after.map_or((-1, ""), |cursor| (cursor.created_at.micros(), cursor.id.as_str()));
        let sql = select!(
            "WHERE token_id = $1 AND (created_at > $2 OR (created_at = $2 AND id > $3)) \
             ORDER BY created_at, id LIMIT $4"
        );
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = self.all(sql, args![token.as_str(), at, id, limit]).await?;
        rows.iter().map(JobRow::read).collect()
    }

    /// All jobs whose files are in a place, the oldest first.
    pub async fn jobs_at(&mut self, place: &JobFolderId) -> Result<Vec<JobRow>, StoreError> {
        let rows =
            self.all(select!("WHERE place = $1 ORDER BY created_at, id"), args![place.as_str()]).await?;
        rows.iter().map(JobRow::read).collect()
    }

    /// How many jobs of a place have not ended, and how many there are.
    pub async fn count_jobs(&mut self, place: &JobFolderId) -> Result<(u64, u64), StoreError> {
        let sql = "SELECT COUNT(*) AS kept, COUNT(*) - COUNT(finished_at) AS open FROM jobs WHERE place = $1";
        let row = self.single(sql, args![place.as_str()]).await?;
        Ok((row.number("open")?, row.number("kept")?))
    }

    /// Moves a job from a state to another that is no end; false if it is not in that state, or to be cancelled.
    pub async fn move_job(
        &mut self,
        id: &JobId,
        from: JobState,
        to: JobState,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let sql = "UPDATE jobs SET state = $3, runs = CASE WHEN $3 = 'running' THEN runs + 1 ELSE runs END, \
                   started_at = CASE WHEN $3 = 'running' THEN COALESCE(started_at, $4) ELSE started_at END \
                   WHERE id = $1 AND state = $2 AND cancel = 0";
        Ok(self.execute(sql, args![id.as_str(), from.name(), to.name(), now]).await? == 1)
    }

    /// A run that was stopped in order does not count.
    pub async fn forget_run(&mut self, id: &JobId) -> Result<(), StoreError> {
        let sql = "UPDATE jobs SET runs = runs - 1 WHERE id = $1 AND runs > 0";
        self.execute(sql, args![id.as_str()]).await.map(drop)
    }

    /// What ran in a place when its server died, for the so-and-so-many-th time, has failed; how many did.
    pub async fn give_up_jobs(
        &mut self,
        place: &JobFolderId,
        runs: i64,
        error: &str,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        let sql = "UPDATE jobs SET state = 'failed', error = $3, finished_at = $4 \
                   WHERE place = $1 AND state = 'running' AND cancel = 0 AND runs >= $2";
        self.execute(sql, args![place.as_str(), runs, error, now]).await
    }

    /// What ran in a place when its server died waits for its turn again.
    pub async fn requeue_jobs(&mut self, place: &JobFolderId) -> Result<u64, StoreError> {
        let sql = "UPDATE jobs SET state = 'queued' WHERE place = $1 AND state = 'running'";
        self.execute(sql, args![place.as_str()]).await
    }

    /// Notes that a job is to end; false if it has ended.
    pub async fn cancel_job(&mut self, id: &JobId) -> Result<bool, StoreError> {
        let sql = "UPDATE jobs SET cancel = 1 WHERE id = $1 AND finished_at IS NULL";
        Ok(self.execute(sql, args![id.as_str()]).await? == 1)
    }

    /// Notes how far a running job is; whether it is to end.
    pub async fn note_job(&mut self, id: &JobId, counts: &JobCounts) -> Result<bool, StoreError> {
        let sql = "UPDATE jobs SET bytes = $2, total_bytes = $3, documents = $4, tokens = $5, detected = $6, \
                   faults = $7 WHERE id = $1 AND state = 'running'";
        let JobCounts { bytes, total_bytes, documents, tokens, detected, faults } = *counts;
        let values = args![
            id.as_str(),
            count(bytes),
            count(total_bytes),
            count(documents),
            count(tokens),
            count(detected),
            count(faults)
        ];
        self.execute(sql, values).await?;
        let row = self.one("SELECT cancel FROM jobs WHERE id = $1", args![id.as_str()]).await?;
        row.map_or(Ok(true), |row| row.flag("cancel"))
    }

    /// Ends a job; false if it had ended.
    pub async fn end_job(
        &mut self,
        id: &JobId,
        state: JobState,
        error: Option<&str>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let sql =
            "UPDATE jobs SET state = $2, error = $3, finished_at = $4 WHERE id = $1 AND finished_at IS NULL";
        Ok(self.execute(sql, args![id.as_str(), state.name(), error, now]).await? == 1)
    }

    /// Ends a job that is in one state still; false if it is not.
    pub async fn expire_job(
        &mut self,
        id: &JobId,
        from: JobState,
        to: JobState,
        error: Option<&str>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let sql = "UPDATE jobs SET state = $3, error = $4, finished_at = $5 WHERE id = $1 AND state = $2";
        Ok(self.execute(sql, args![id.as_str(), from.name(), to.name(), error, now]).await? == 1)
    }

    /// Forgets a job.
    pub async fn delete_job(&mut self, id: &JobId) -> Result<(), StoreError> {
        self.execute("DELETE FROM jobs WHERE id = $1", args![id.as_str()]).await.map(drop)
    }
}
