//! The jobs as the API sees them: there only once the daemon runs.

use std::sync::{Arc, OnceLock};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tracing::warn;

use crate::api::{self, Code, Problem};
use crate::domain::{JobId, NewJob, Wish};
use crate::pipeline::jobs::{Error, Jobs};
use crate::store::JobRecord;
use crate::telemetry::chain;

/// A place for the jobs, empty until they have started.
#[derive(Clone, Default)]
pub(super) struct Handle(Arc<OnceLock<Jobs>>);

impl Handle {
    /// The jobs have started.
    pub(super) fn set(&self, jobs: Jobs) {
        // It is called once; a second set of jobs would change nothing.
        drop(self.0.set(jobs));
    }

    fn jobs(&self) -> Result<&Jobs, Problem> {
        self.0.get().ok_or_else(|| Problem::unavailable(Code::Starting, "the daemon is still starting"))
    }
}

impl api::jobs::Jobs for Handle {
    fn begin(&self, new: NewJob) -> BoxFuture<'_, Result<JobRecord, Problem>> {
        async move { self.jobs()?.begin(new).await.map_err(|error| problem(&error)) }.boxed()
    }

    fn list(&self) -> Result<Vec<JobRecord>, Problem> {
        Ok(self.jobs()?.list())
    }

    fn get(&self, id: JobId) -> Result<JobRecord, Problem> {
        self.jobs()?.get(id).map_err(|error| problem(&error))
    }

    fn change(&self, id: JobId, wish: Wish) -> BoxFuture<'_, Result<JobRecord, Problem>> {
        async move { self.jobs()?.change(id, wish).await.map_err(|error| problem(&error)) }.boxed()
    }
}

fn problem(error: &Error) -> Problem {
    let detail = error.to_string();
    match error {
        Error::NoSubscription(_) | Error::NoJob(_) => Problem::not_found(detail),
        Error::Stream { .. } | Error::Forgetful { .. } => Problem::invalid("stream", detail),
        Error::Range { .. } => Problem::new(Code::Range, detail),
        Error::Busy(_) => Problem::new(Code::JobRunning, detail),
        Error::TooMany => Problem::new(Code::JobsMax, detail).retry_after(10),
        Error::Over(_) => Problem::new(Code::JobOver, detail),
        Error::NotDurable => Problem::unavailable(Code::StoreUnavailable, detail),
        Error::Ingest(error) => {
            warn!(error = %chain(error), "a job could not be begun");
            Problem::unavailable(Code::NatsUnavailable, "the stream cannot be asked at the moment")
        }
    }
}
