//! Jobs: replaying history, redriving dead letters, and looking after both.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use futures_util::future::BoxFuture;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Problem, State};
use crate::domain::job::{RATE_DEFAULT, RATE_MAX};
use crate::domain::{Begin, JobId, JobState, NewJob, NewTask, StreamName, SubscriptionId, Wish};
use crate::store::{JobCounts, JobRecord, JobTask};
use crate::telemetry::clock;

/// Who does the jobs.
pub trait Jobs: Send + Sync + 'static {
    /// Begins one.
    fn begin(&self, new: NewJob) -> BoxFuture<'_, Result<JobRecord, Problem>>;
    /// All of them, oldest first.
    ///
    /// # Errors
    /// While the daemon starts.
    fn list(&self) -> Result<Vec<JobRecord>, Problem>;
    /// One.
    ///
    /// # Errors
    /// When there is none of that id, or while the daemon starts.
    fn get(&self, id: JobId) -> Result<JobRecord, Problem>;
    /// Pauses, resumes or cancels one.
    fn change(&self, id: JobId, wish: Wish) -> BoxFuture<'_, Result<JobRecord, Problem>>;
}

type Access = Extension<Arc<dyn Jobs>>;

/// The routes, to be served below `/api/v1`.
pub fn routes(jobs: Arc<dyn Jobs>) -> Router<State> {
    Router::new()
        .route("/subscriptions/{name}/replay", post(replay))
        .route("/subscriptions/{name}/redrive", post(redrive))
        .route("/jobs", get(list))
        .route("/jobs/{id}", get(one))
        .route("/jobs/{id}/pause", post(|jobs, id| change(jobs, id, Wish::Pause)))
        .route("/jobs/{id}/resume", post(|jobs, id| change(jobs, id, Wish::Resume)))
        .route("/jobs/{id}/cancel", post(|jobs, id| change(jobs, id, Wish::Cancel)))
        .layer(Extension(jobs))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Replay {
    stream: Option<String>,
    from: Value,
    to: Option<Value>,
    rate: Option<u32>,
    #[serde(default)]
    dry_run: bool,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Redrive {
    status: Option<u16>,
    class: Option<String>,
    since: Option<String>,
    until: Option<String>,
    rate: Option<u32>,
    #[serde(default)]
    dry_run: bool,
}

/// `POST /api/v1/subscriptions/{name}/replay`.
async fn replay(Extension(jobs): Access, Path(name): Path<String>, body: Bytes) -> Result<Response, Problem> {
    let asked: Replay = read(&body)?;
    let stream = asked.stream.as_deref().map(StreamName::parse).transpose();
    let from = place(&asked.from, &[("all", Begin::All)]).ok_or_else(|| {
        Problem::invalid(
            "from",
            "`from` must be a stream sequence, a time such as \"2026-01-31T08:00:00Z\", or \"all\"",
        )
    })?;
    let to = asked.to.as_ref().map_or(Some(Begin::Now), |to| place(to, &[("now", Begin::Now)])).ok_or_else(|| {
        Problem::invalid("to", "`to` must be a stream sequence, a time such as \"2026-01-31T08:00:00Z\", or \"now\"")
    })?;
    let task = NewTask::Replay { stream: stream.map_err(|e| Problem::invalid("stream", e.to_string()))?, from, to };
    begin(&jobs, &name, task, asked.rate, asked.dry_run).await
}

/// `POST /api/v1/subscriptions/{name}/redrive`.
async fn redrive(Extension(jobs): Access, Path(name): Path<String>, body: Bytes) -> Result<Response, Problem> {
    let asked: Redrive = if body.is_empty() { Redrive::default() } else { read(&body)? };
    let time = |name, text: Option<&str>| match text.map(clock::parse_rfc3339) {
        None => Ok(None),
        Some(Some(at_ms)) => Ok(Some(at_ms)),
        Some(None) => Err(Problem::invalid(name, format!("`{name}` must be a time such as \"2026-01-31T08:00:00Z\""))),
    };
    let task = NewTask::Redrive {
        status: asked.status,
        class: asked.class.as_deref().map(Into::into),
        since_ms: time("since", asked.since.as_deref())?,
        until_ms: time("until", asked.until.as_deref())?,
    };
    begin(&jobs, &name, task, asked.rate, asked.dry_run).await
}

async fn begin(
    jobs: &Arc<dyn Jobs>,
    name: &str,
    task: NewTask,
    rate: Option<u32>,
    dry_run: bool,
) -> Result<Response, Problem> {
    let unknown = |_| Problem::not_found(format!("there is no webhook subscription {name}"));
    let subscription = SubscriptionId::parse(name).map_err(unknown)?;
    let rate = rate.unwrap_or(RATE_DEFAULT);
    if !(1..=RATE_MAX).contains(&rate) {
        return Err(Problem::invalid("rate", format!("`rate` must be from 1 to {RATE_MAX} deliveries a second")));
    }
    let job = jobs.begin(NewJob { subscription, task, rate, dry_run }).await?;
    Ok((StatusCode::ACCEPTED, Json(Job::from(&job))).into_response())
}

fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| Problem::invalid("body", error.to_string()))
}

fn place(value: &Value, words: &[(&str, Begin)]) -> Option<Begin> {
    match value {
        Value::Number(number) => number.as_u64().filter(|sequence| *sequence > 0).map(Begin::Sequence),
        Value::String(text) => match words.iter().find(|(word, _)| word == text) {
            Some((_, place)) => Some(*place),
            None => clock::parse_rfc3339(text).map(Begin::Time),
        },
        _ => None,
    }
}

/// `GET /api/v1/jobs`: newest first.
async fn list(Extension(jobs): Access) -> Result<Response, Problem> {
    let all = jobs.list()?;
    let all: Vec<Job> = all.iter().rev().map(Job::from).collect();
    Ok(Json(serde_json::json!({ "jobs": all })).into_response())
}

/// `GET /api/v1/jobs/{id}`.
async fn one(Extension(jobs): Access, Path(id): Path<String>) -> Result<Response, Problem> {
    Ok(Json(Job::from(&jobs.get(job_id(&id)?)?)).into_response())
}

/// `POST /api/v1/jobs/{id}/pause`, `/resume` and `/cancel`.
async fn change(Extension(jobs): Access, Path(id): Path<String>, wish: Wish) -> Result<Response, Problem> {
    let job = jobs.change(job_id(&id)?, wish).await?;
    Ok(Json(Job::from(&job)).into_response())
}

fn job_id(text: &str) -> Result<JobId, Problem> {
    JobId::parse(text).ok_or_else(|| Problem::not_found(format!("there is no job {text}")))
}

/// A job as it is now.
#[derive(Serialize)]
struct Job {
    id: String,
    subscription: String,
    /// `replay` or `redrive`.
    kind: &'static str,
    /// `running`, `paused`, `done`, `cancelled` or `failed`.
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    dry_run: bool,
    /// Deliveries a second, at most.
    rate: u32,
    created_at: String,
    updated_at: String,
    /// How long it has been at work, in milliseconds.
    ran_ms: u64,
    counts: Counts,
    #[serde(flatten)]
    task: Task,
}

/// What has come of it. `deliveries` are those made (of a dry run: that would be), and `delivered`, `parked` and `failed`
/// what came of them; a redrive knows only how many letters it has parked again.
#[derive(Serialize)]
struct Counts {
    seen: u64,
    filtered: u64,
    faulted: u64,
    pending: u64,
    deliveries: u64,
    delivered: u64,
    parked: u64,
    failed: u64,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Task {
    Replay {
        stream: String,
        from: u64,
        to: u64,
        /// The next sequence to read: everything before it is on record.
        next: u64,
        /// The first sequence that the stream still had, where the beginning was gone.
        #[serde(skip_serializing_if = "Option::is_none")]
        available_from: Option<u64>,
        /// From 0 to 1.
        progress: f64,
        /// How many more seconds it will take, by what it has taken so far.
        #[serde(skip_serializing_if = "Option::is_none")]
        eta_s: Option<u64>,
    },
    Redrive {
        #[serde(skip_serializing_if = "Option::is_none")]
        status: Option<u16>,
        #[serde(skip_serializing_if = "Option::is_none")]
        class: Option<String>,
        since: String,
        until: String,
    },
}

impl From<&JobRecord> for Job {
    fn from(job: &JobRecord) -> Self {
        let JobCounts { seen, filtered, faulted, pending, deliveries, delivered, parked, failed } = job.counts;
        let (kind, task) = match &job.task {
            JobTask::Replay(task) => {
                let (done, all) = (task.next.saturating_sub(task.from), task.to + 1 - task.from);
                let left = all.saturating_sub(done);
                let is_moving = job.state == JobState::Running && done > 0;
                let eta_s = is_moving.then(|| job.ran_ms.saturating_mul(left) / done / 1_000);
                let task = Task::Replay {
                    stream: task.stream.to_string(),
                    from: task.from,
                    to: task.to,
                    next: task.next,
                    available_from: task.available,
                    progress: (done as f64 / all as f64).min(1.0),
                    eta_s,
                };
                ("replay", task)
            }
            JobTask::Redrive(task) => {
                let task = Task::Redrive {
                    status: task.status,
                    class: task.class.as_deref().map(ToOwned::to_owned),
                    since: clock::rfc3339(task.since_ms),
                    until: clock::rfc3339(task.until_ms),
                };
                ("redrive", task)
            }
        };
        Self {
            id: job.id.to_string(),
            subscription: job.subscription.to_string(),
            kind,
            state: job.state.as_str(),
            reason: job.reason.as_deref().map(ToOwned::to_owned),
            dry_run: job.dry_run,
            rate: job.rate,
            created_at: clock::rfc3339(job.created_ms),
            updated_at: clock::rfc3339(job.updated_ms),
            ran_ms: job.ran_ms,
            counts: Counts { seen, filtered, faulted, pending, deliveries, delivered, parked, failed },
            task,
        }
    }
}
