//! Running jobs: one task that hands out turns, one for each that runs, and the threads of `dandyroll_dumps`.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use dandyroll_dumps::{Progress, Sink, Summary};
use dandyroll_ledger::audit::{Action, Completion, Detail, DetailValue, Intent, Operation, Outcome, Subject};
use dandyroll_ledger::store::JobRow;
use dandyroll_ledger::store::{JobCounts, JobId, JobState};
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, timeout};

use super::order::Order;
use super::{Inner, JobError, Jobs, blocking};
use crate::AUDIT_WAIT;
use crate::detection::Plan;

/// How often the state of jobs is looked at, and written.
const TICK: Duration = Duration::from_millis(500);

/// How a run came to its end.
enum Ended {
    Done(Box<Summary>),
    Failed(JobError),
    Cancelled,
    /// The server stops: the job goes on at the next start.
    Stopped,
    /// A fault that may pass: the job goes on from its finished files after a while.
    Later,
}

/// Runs of a job, of which all met a fault that may pass, after which it has failed.
const TRIES: u32 = 10;

fn whole(number: u64) -> DetailValue {
    DetailValue::Count(i64::try_from(number).unwrap_or(i64::MAX))
}

impl Inner {
    fn stops(&self) -> bool {
        *self.stopping.borrow()
    }
}

impl Jobs {
    /// Hands out turns until the server stops, then waits for those that run.
    pub(super) async fn drive(&self) {
        let inner = &self.inner;
        let mut running: JoinSet<()> = JoinSet::new();
        while !inner.stops() {
            while running.try_join_next().is_some() {}
            if let Err(error) = self.clear_away().await {
                tracing::warn!(%error, "jobs could not be cleared away");
            }
            while running.len() < inner.settings.running && !inner.stops() {
                match self.next().await {
                    Ok(Some(row)) => {
                        let jobs = self.clone();
                        running.spawn(async move { jobs.one(row).await });
                    }
                    Ok(None) => break,
                    Err(error) => {
                        tracing::warn!(%error, "no job could be begun");
                        break;
                    }
                }
            }
            drop(timeout(TICK, inner.wake.notified()).await);
        }
        while running.join_next().await.is_some() {}
    }

    /// Forgets what ended long ago, and what waits for an upload in vain.
    async fn clear_away(&self) -> Result<(), JobError> {
        let Inner { node, settings, files, .. } = &*self.inner;
        let mut tx = node.store().read().await?;
        let now = tx.now().await?;
        let rows = tx.jobs_at(files.place()).await?;
        drop(tx);
        for row in rows {
            let busy = self.inner.uploading.lock().unwrap_or_else(PoisonError::into_inner).contains(&row.id);
            let old = row.finished_at.is_some_and(|at| at < now.minus(settings.keep));
            let lost =
                row.state == JobState::Waiting && !busy && row.created_at < now.minus(settings.upload_wait);
            // Its owner ended it while its server was dead.
            let called_off = row.cancel && row.state == JobState::Queued;
            if !(old || lost || called_off) {
                continue;
            }
            if lost || called_off {
                let (state, why) = match called_off {
                    true => (JobState::Cancelled, None),
                    false => (JobState::Failed, Some("no upload came in time")),
                };
                let mut tx = node.store().write().await?;
                let ended = tx.expire_job(&row.id, row.state, state, why, now).await?;
                tx.commit().await?;
                // Its upload came meanwhile.
                if !ended {
                    continue;
                }
            }
            let (files, id) = (files.clone(), row.id.clone());
            blocking(move || files.remove(&id)).await?;
            if old {
                let mut tx = node.store().write().await?;
                tx.delete_job(&row.id).await?;
                tx.commit().await?;
            }
        }
        Ok(())
    }

    /// The job whose turn it is, if there is one; it runs from now on.
    async fn next(&self) -> Result<Option<JobRow>, JobError> {
        let Inner { node, files, .. } = &*self.inner;
        let mut tx = node.store().read().await?;
        let rows = tx.jobs_at(files.place()).await?;
        drop(tx);
        let ready: Vec<JobRow> = {
            let mut again = self.inner.again.lock().unwrap_or_else(PoisonError::into_inner);
            again.retain(|id, _| rows.iter().any(|row| row.id == *id && row.finished_at.is_none()));
            let now = Instant::now();
            let waits = |id: &JobId| again.get(id).is_some_and(|(_, at)| *at > now);
            let queued = |row: &JobRow| row.state == JobState::Queued && !row.cancel && !waits(&row.id);
            rows.into_iter().filter(queued).collect()
        };
        for row in ready {
            let mut tx = node.store().write().await?;
            let now = tx.now().await?;
            let moved = tx.move_job(&row.id, JobState::Queued, JobState::Running, now).await?;
            tx.commit().await?;
            if moved {
                return Ok(Some(row));
            }
        }
        Ok(None)
    }

    /// One job from its turn to its end.
    async fn one(&self, row: JobRow) {
        let id = row.id.clone();
        let ended = match self.begin(&row).await {
            Ok((operation, order, plan)) => {
                let progress = Arc::new(Progress::default());
                let ended = self.judge(&row, order, &plan, &progress).await;
                self.conclude(&row, ended, Some((operation, &progress))).await
            }
            // Nothing was done: another turn later.
            Err(JobError::Audit(error)) => {
                tracing::warn!(job = %id, %error, "a job waits for the audit");
                sleep(TICK).await;
                self.conclude(&row, Ended::Stopped, None).await
            }
            Err(error) => self.conclude(&row, Ended::Failed(error), None).await,
        };
        if let Err(error) = ended {
            tracing::error!(job = %id, %error, "the end of a job could not be noted: it is taken up at the next start");
        }
    }

    /// Opens the keys and writes down that the job begins.
    async fn begin(&self, row: &JobRow) -> Result<(Operation, Order, Arc<Plan>), JobError> {
        let Inner { node, detecting, .. } = &*self.inner;
        let order = Order::from_json(&row.request)?;
        let snapshot = node.snapshot();
        // Whoever took the token away took this, too.
        let token =
            snapshot.tokens.valid(&row.token, dandyroll_ledger::Timestamp::now()).ok_or(JobError::Revoked)?;
        let plan = Arc::new(detecting.plan_of(&token.grant, &order.look())?);
        let detail = Detail::from([
            ("job", row.id.as_str().into()),
            ("hypotheses", whole(u64::try_from(plan.hypotheses_tried()).unwrap_or(u64::MAX))),
        ]);
        let subject = Subject { alias: plan.alias.clone(), ..Subject::default() };
        let intent = Intent { action: Action::JobRun.name(), actor: row.token.to_string(), subject, detail };
        Ok((node.audit().begin(&intent).await?, order, plan))
    }

    /// Judges the dump on threads of its own, noting how far it is.
    async fn judge(&self, row: &JobRow, order: Order, plan: &Plan, progress: &Arc<Progress>) -> Ended {
        let Inner { settings, files, .. } = &*self.inner;
        let work = {
            let (files, id, progress) = (files.clone(), row.id.clone(), Arc::clone(progress));
            let (judge, settings) = (plan.judge(), settings.clone());
            move || -> Result<Summary, JobError> {
                let judge = judge?;
                let shards = files.inputs(&id, &order)?;
                let options = order.options(settings.max_document, settings.memory, settings.threads)?;
                let folder = files.results_folder(&id);
                let summary =
                    dandyroll_dumps::run(&judge, &shards, &options, Sink::Folder(&folder), &progress)?;
                let mut summary = summary;
                for failed in &mut summary.failed {
                    failed.reason = files.shown(&failed.reason);
                }
                for example in &mut summary.examples {
                    example.reason = files.shown(&example.reason);
                }
                let folder = files.summary_folder(&id);
                summary
                    .write(&folder, "summary", &judge, order.false_discovery_rate())
                    .map_err(|source| JobError::Io { path: folder, source })?;
                Ok(summary)
            }
        };
        let mut running = tokio::task::spawn_blocking(work);
        let (mut tick, mut stopping) = (interval(TICK), self.inner.stopping.subscribe());
        let mut why = None;
        let ran = loop {
            tokio::select! {
                ran = &mut running => break ran,
                _ = tick.tick() => {}
                () = self.inner.nudge.notified() => {}
                _ = stopping.wait_for(|stops| *stops), if why.is_none() => {}
            }
            if why.is_none() {
                why = self.reason_to_stop(&row.id, progress).await;
            }
            if why.is_some() {
                progress.stop();
            }
        };
        match (ran.unwrap_or(Err(JobError::Died)), why) {
            // What was written since it was last looked at counts, too.
            (Ok(summary), _) => match self.over_quota(&row.id).await {
                Some(error) => Ended::Failed(error),
                None => Ended::Done(Box::new(summary)),
            },
            (Err(JobError::Run(_)), Some(why)) => why,
            (Err(error), _) => Ended::Failed(error),
        }
    }

    /// Notes how far a job is, and says why it should end, if it should.
    async fn reason_to_stop(&self, id: &JobId, progress: &Progress) -> Option<Ended> {
        let node = &self.inner.node;
        if self.inner.stops() {
            return Some(Ended::Stopped);
        }
        let noted = async {
            let mut tx = node.store().write().await?;
            let cancel = tx.note_job(id, &counts(progress)).await?;
            tx.commit().await?;
            Ok::<_, JobError>(cancel)
        };
        match noted.await {
            Ok(true) => return Some(Ended::Cancelled),
            Ok(false) => {}
            Err(error) => tracing::warn!(job = %id, %error, "the progress of a job could not be noted"),
        }
        self.over_quota(id).await.map(Ended::Failed)
    }

    /// That a job's files take more than they may, or cannot be counted.
    async fn over_quota(&self, id: &JobId) -> Option<JobError> {
        let Inner { settings, files, .. } = &*self.inner;
        let (files, job) = (files.clone(), id.clone());
        match blocking(move || files.used(&job)).await {
            Ok(used) if used > u64::try_from(settings.disk_limit).unwrap_or(u64::MAX) => {
                Some(JobError::TooLarge { what: "the files of a job", most: settings.disk_limit })
            }
            Ok(_) => None,
            Err(error) => {
                tracing::warn!(job = %id, %error, "the files of a job could not be counted");
                None
            }
        }
    }

    /// Notes how a job ended, in the audit and in the store, however long the store is away.
    async fn conclude(
        &self,
        row: &JobRow,
        ended: Ended,
        begun: Option<(Operation, &Arc<Progress>)>,
    ) -> Result<(), JobError> {
        let Inner { files, .. } = &*self.inner;
        let id = &row.id;
        let ended = self.another_try(row, ended);
        // Files first: what is said to be gone is gone.
        let remove = async || {
            let (files, job) = (files.clone(), id.clone());
            if let Err(error) = blocking(move || files.remove(&job)).await {
                tracing::warn!(job = %id, %error, "the files of a job could not be removed");
            }
        };
        if matches!(ended, Ended::Cancelled | Ended::Failed(_)) {
            remove().await;
        }
        let (state, told) = match &ended {
            Ended::Done(_) => (JobState::Done, None),
            Ended::Failed(error) => {
                tracing::warn!(job = %id, %error, "a job failed");
                (JobState::Failed, Some(files.shown(&error.told())))
            }
            Ended::Cancelled => (JobState::Cancelled, None),
            Ended::Stopped | Ended::Later => (JobState::Queued, None),
        };
        let last = begun.as_ref().map(|(_, progress)| match &ended {
            // What an earlier run did is counted, too.
            Ended::Done(summary) => JobCounts {
                documents: summary.tally.documents,
                tokens: summary.tally.tokens,
                detected: summary.tally.detected,
                faults: summary.tally.fault_count().saturating_add(unread(summary)),
                ..counts(progress)
            },
            _ => counts(progress),
        });
        let mut state = state;
        if let Some((operation, progress)) = begun
            && let Err(error) = operation.complete_within(completion(&ended, progress), AUDIT_WAIT).await
        {
            tracing::warn!(job = %id, %error, "the end of a job's run is not in the audit");
            // Results are not handed out before the audit has their end: another run finds all done.
            if state == JobState::Done {
                state = JobState::Queued;
            }
        }
        loop {
            match self.note_end(id, state, told.as_deref(), last.as_ref()).await {
                Err(error) if !self.inner.stops() => {
                    tracing::warn!(job = %id, %error, "the end of a job could not be noted yet");
                    sleep(TICK).await;
                }
                Err(error) => return Err(error),
                Ok(called_off) => {
                    if called_off {
                        remove().await;
                    }
                    return Ok(());
                }
            }
        }
    }

    /// A fault that may pass keeps what is finished; the job waits in the queue, and others have their turn.
    fn another_try(&self, row: &JobRow, ended: Ended) -> Ended {
        match ended {
            Ended::Failed(error) if error.may_pass() => {
                let mut again = self.inner.again.lock().unwrap_or_else(PoisonError::into_inner);
                let at = Instant::now() + self.inner.settings.retry_after;
                let (tries, next) = again.entry(row.id.clone()).or_insert((0, at));
                (*tries, *next) = (*tries + 1, at);
                if *tries >= TRIES {
                    return Ended::Failed(error);
                }
                tracing::warn!(job = %row.id, %error, "a job met a fault that may pass; it is tried again");
                Ended::Later
            }
            ended => ended,
        }
    }

    /// Whether the job was cancelled in this moment, and ended so in the place of being queued again.
    async fn note_end(
        &self,
        id: &JobId,
        state: JobState,
        error: Option<&str>,
        last: Option<&JobCounts>,
    ) -> Result<bool, JobError> {
        let mut tx = self.inner.node.store().write().await?;
        let now = tx.now().await?;
        let cancel = match last {
            Some(counts) => tx.note_job(id, counts).await?,
            // It never came to its work.
            None => tx.job(id).await?.is_some_and(|row| row.cancel),
        };
        let mut called_off = false;
        if state == JobState::Queued {
            let moved = tx.move_job(id, JobState::Running, JobState::Queued, now).await?;
            // Only a run that its server did not live to see the end of is counted.
            tx.forget_run(id).await?;
            if !moved && cancel {
                called_off = true;
                tx.end_job(id, JobState::Cancelled, None, now).await?;
            }
        } else {
            tx.end_job(id, state, error, now).await?;
        }
        tx.commit().await?;
        Ok(called_off)
    }
}

/// Files that could not be read, or changed while they were: faults of no document.
fn unread(summary: &Summary) -> u64 {
    u64::try_from(summary.failed.len()).unwrap_or(u64::MAX)
}

fn counts(progress: &Progress) -> JobCounts {
    JobCounts {
        bytes: progress.bytes(),
        total_bytes: progress.total_bytes(),
        documents: progress.documents(),
        tokens: progress.tokens(),
        detected: progress.detected(),
        faults: progress.faults(),
    }
}

/// What the audit says of a run: counts over the whole dump if it is done, else over what this run wrote.
fn completion(ended: &Ended, progress: &Progress) -> Completion {
    let (outcome, documents, detected, errors, code) = match ended {
        Ended::Done(summary) => {
            let tally = &summary.tally;
            let errors = tally.fault_count().saturating_add(unread(summary));
            (Outcome::Ok, tally.documents, tally.detected, errors, None)
        }
        Ended::Failed(error) => {
            let code = match error {
                JobError::Look(error) => error.code(),
                JobError::TooLarge { .. } => "too_large",
                JobError::Run(_) | JobError::Input(_) => "run",
                _ => "internal",
            };
            (Outcome::Failed, progress.documents(), progress.detected(), progress.faults(), Some(code))
        }
        Ended::Cancelled => (
            Outcome::Interrupted,
            progress.documents(),
            progress.detected(),
            progress.faults(),
            Some("cancelled"),
        ),
        Ended::Later => {
            (Outcome::Failed, progress.documents(), progress.detected(), progress.faults(), Some("internal"))
        }
        Ended::Stopped => (
            Outcome::Interrupted,
            progress.documents(),
            progress.detected(),
            progress.faults(),
            Some("draining"),
        ),
    };
    let mut detail =
        Detail::from([("texts", whole(documents)), ("detected", whole(detected)), ("errors", whole(errors))]);
    if let Some(code) = code {
        detail.insert("code", code.into());
    }
    Completion { detail, ..Completion::plain(outcome) }
}
