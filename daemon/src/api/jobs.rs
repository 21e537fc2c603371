//! Jobs: replaying history, redriving dead letters, and looking after both.

use std::sync::Arc;

use axum::Extension;
use futures_util::future::BoxFuture;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::document::of_webhook;
use super::extract::{Json, JsonOrNone, Path};
use super::principal::Asker;
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
/// A job that has begun.
type Begun = Result<(StatusCode, axum::Json<Job>), Problem>;
/// A job as it is now.
type Changed = Result<axum::Json<Job>, Problem>;

/// The routes, to be served below `/api/v1`.
pub fn routes(jobs: Arc<dyn Jobs>) -> OpenApiRouter<State> {
    operations().layer(Extension(jobs))
}

/// The operations, not yet bound to what they work on.
pub(super) fn operations() -> OpenApiRouter<State> {
    OpenApiRouter::default()
        .routes(routes!(replay))
        .routes(routes!(redrive))
        .routes(of_webhook(routes!(replay), "/webhooks/{id}/replay"))
        .routes(of_webhook(routes!(redrive), "/webhooks/{id}/redrive"))
        .routes(routes!(list))
        .routes(routes!(one))
        .routes(routes!(pause))
        .routes(routes!(resume))
        .routes(routes!(cancel))
}

/// What to deliver again from a stream.
#[derive(Deserialize, ToSchema)]
#[schema(as = NewReplay)]
#[serde(deny_unknown_fields)]
struct Replay {
    /// The stream; needed only where there are several.
    stream: Option<String>,
    /// The first event: a stream sequence, a time (RFC 3339), or `all`.
    from: StreamPlace,
    /// The last event: a stream sequence, a time, or `now`, which is the default.
    to: Option<StreamPlace>,
    /// Deliveries a second, at most.
    #[schema(minimum = 1, maximum = 10000)]
    rate: Option<u32>,
    /// Only count what would be delivered.
    #[serde(default)]
    dry_run: bool,
}

/// A place in a stream.
#[derive(Deserialize, ToSchema)]
#[serde(untagged)]
enum StreamPlace {
    /// A stream sequence.
    Sequence(u64),
    /// A time such as `2026-01-31T08:00:00Z`, or a word.
    Word(String),
}

/// Which dead letters to park again; all, when nothing is said.
#[derive(Default, Deserialize, ToSchema)]
#[schema(as = NewRedrive)]
#[serde(deny_unknown_fields)]
struct Redrive {
    /// Only those whose last attempt was answered so.
    #[schema(minimum = 100, maximum = 599)]
    status: Option<u16>,
    /// Only those of this class of failure.
    class: Option<String>,
    /// Only those that failed at this time or later (RFC 3339).
    #[schema(format = DateTime)]
    since: Option<String>,
    /// Only those that failed before this time.
    #[schema(format = DateTime)]
    until: Option<String>,
    /// Deliveries a second, at most.
    #[schema(minimum = 1, maximum = 10000)]
    rate: Option<u32>,
    /// Only count what would be parked again.
    #[serde(default)]
    dry_run: bool,
}

/// Replay history to a subscription
#[utoipa::path(
    post,
    path = "/subscriptions/{name}/replay",
    tag = "jobs",
    params(("name" = String, Path, description = "The subscription's name")),
    request_body = Replay,
    responses((status = 202, description = "The job, which has begun", body = Job)),
    extensions(("x-problems" = json!([
        "invalid_request", "not_found", "range", "job_running", "jobs_max", "store_unavailable", "nats_unavailable"
    ])))
)]
async fn replay(Extension(jobs): Access, asker: Asker, Path(name): Path<String>, Json(asked): Json<Replay>) -> Begun {
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
    let subscription = seen(&asker, &name)?;
    begin(&jobs, subscription, task, asked.rate, asked.dry_run).await
}

/// Park a subscription's dead letters again
#[utoipa::path(
    post,
    path = "/subscriptions/{name}/redrive",
    tag = "jobs",
    params(("name" = String, Path, description = "The subscription's name")),
    request_body = Option<Redrive>,
    responses((status = 202, description = "The job, which has begun", body = Job)),
    extensions(("x-problems" = json!([
        "invalid_request", "not_found", "job_running", "jobs_max", "store_unavailable"
    ])))
)]
async fn redrive(
    Extension(jobs): Access,
    asker: Asker,
    Path(name): Path<String>,
    JsonOrNone(asked): JsonOrNone<Redrive>,
) -> Begun {
    let time = |name, text: Option<&str>| match text.map(clock::parse_rfc3339) {
        None => Ok(None),
        Some(Some(at_ms)) => Ok(Some(at_ms)),
        Some(None) => Err(Problem::invalid(name, format!("`{name}` must be a time such as \"2026-01-31T08:00:00Z\""))),
    };
    if asked.status.is_some_and(|status| !(100..600).contains(&status)) {
        return Err(Problem::invalid("status", "`status` must be from 100 to 599"));
    }
    let task = NewTask::Redrive {
        status: asked.status,
        class: asked.class.as_deref().map(Into::into),
        since_ms: time("since", asked.since.as_deref())?,
        until_ms: time("until", asked.until.as_deref())?,
    };
    let subscription = seen(&asker, &name)?;
    begin(&jobs, subscription, task, asked.rate, asked.dry_run).await
}

/// The subscription of that name, when it is one that the asker may see, or there is none.
fn seen(asker: &Asker, name: &str) -> Result<SubscriptionId, Problem> {
    let subscription = SubscriptionId::parse(name).ok().filter(|id| asker.sees(id));
    subscription.ok_or_else(|| Problem::not_found(format!("there is no webhook subscription {name}")))
}

async fn begin(
    jobs: &Arc<dyn Jobs>,
    subscription: SubscriptionId,
    task: NewTask,
    rate: Option<u32>,
    dry_run: bool,
) -> Begun {
    let rate = rate.unwrap_or(RATE_DEFAULT);
    if !(1..=RATE_MAX).contains(&rate) {
        return Err(Problem::invalid("rate", format!("`rate` must be from 1 to {RATE_MAX} deliveries a second")));
    }
    let job = jobs.begin(NewJob { subscription, task, rate, dry_run }).await?;
    Ok((StatusCode::ACCEPTED, axum::Json(Job::from(&job))))
}

fn place(place: &StreamPlace, words: &[(&str, Begin)]) -> Option<Begin> {
    match place {
        StreamPlace::Sequence(sequence) => (*sequence > 0).then_some(Begin::Sequence(*sequence)),
        StreamPlace::Word(text) => match words.iter().find(|(word, _)| word == text) {
            Some((_, place)) => Some(*place),
            None => clock::parse_rfc3339(text).map(Begin::Time),
        },
    }
}

/// Jobs.
#[derive(Serialize, ToSchema)]
struct JobList {
    /// All that are kept, newest first.
    jobs: Vec<Job>,
}

/// List jobs, newest first
#[utoipa::path(
    get,
    path = "/jobs",
    tag = "jobs",
    responses((status = 200, description = "All that are kept", body = JobList))
)]
async fn list(Extension(jobs): Access, asker: Asker) -> Result<axum::Json<JobList>, Problem> {
    let jobs = jobs.list()?.iter().rev().filter(|job| asker.sees(&job.subscription)).map(Job::from).collect();
    Ok(axum::Json(JobList { jobs }))
}

/// Get a job
#[utoipa::path(
    get,
    path = "/jobs/{id}",
    tag = "jobs",
    params(("id" = String, Path, description = "The job's id")),
    responses((status = 200, description = "The job as it is now", body = Job)),
    extensions(("x-problems" = json!(["not_found"])))
)]
async fn one(Extension(jobs): Access, asker: Asker, Path(id): Path<String>) -> Changed {
    Ok(axum::Json(Job::from(&of_asker(&jobs, &asker, &id)?)))
}

/// Pause a job
#[utoipa::path(
    post,
    path = "/jobs/{id}/pause",
    tag = "jobs",
    params(("id" = String, Path, description = "The job's id")),
    responses((status = 200, description = "The job as it is now", body = Job)),
    extensions(("x-problems" = json!(["not_found", "job_over", "store_unavailable"])))
)]
async fn pause(jobs: Access, asker: Asker, id: Path<String>) -> Changed {
    change(jobs, &asker, id, Wish::Pause).await
}

/// Resume a paused job
#[utoipa::path(
    post,
    path = "/jobs/{id}/resume",
    tag = "jobs",
    params(("id" = String, Path, description = "The job's id")),
    responses((status = 200, description = "The job as it is now", body = Job)),
    extensions(("x-problems" = json!(["not_found", "job_over", "store_unavailable"])))
)]
async fn resume(jobs: Access, asker: Asker, id: Path<String>) -> Changed {
    change(jobs, &asker, id, Wish::Resume).await
}

/// Cancel a job
#[utoipa::path(
    post,
    path = "/jobs/{id}/cancel",
    tag = "jobs",
    params(("id" = String, Path, description = "The job's id")),
    responses((status = 200, description = "The job as it is now", body = Job)),
    extensions(("x-problems" = json!(["not_found", "job_over", "store_unavailable"])))
)]
async fn cancel(jobs: Access, asker: Asker, id: Path<String>) -> Changed {
    change(jobs, &asker, id, Wish::Cancel).await
}

async fn change(Extension(jobs): Access, asker: &Asker, Path(id): Path<String>, wish: Wish) -> Changed {
    let job = of_asker(&jobs, asker, &id)?;
    let job = jobs.change(job.id, wish).await?;
    Ok(axum::Json(Job::from(&job)))
}

/// The job of that id, when the asker may see it.
fn of_asker(jobs: &Arc<dyn Jobs>, asker: &Asker, text: &str) -> Result<JobRecord, Problem> {
    let none = || Problem::not_found(format!("there is no job {text}"));
    let job = jobs.get(JobId::parse(text).ok_or_else(none)?)?;
    if asker.sees(&job.subscription) { Ok(job) } else { Err(none()) }
}

/// A job as it is now.
#[derive(Serialize, ToSchema)]
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
#[derive(Serialize, ToSchema)]
#[schema(as = JobCounts)]
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

/// What it is to do.
#[derive(Serialize, ToSchema)]
#[schema(as = JobTask)]
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
