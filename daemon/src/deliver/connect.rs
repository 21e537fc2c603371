//! A bound on making a connection that each request brings along: the HTTP client itself knows only one for all.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tower::{Layer, Service};

tokio::task_local! {
    static TIMEOUT: Duration;
}

/// A connection was not made in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no connection within {0:?}")]
pub(super) struct TimedOut(pub(super) Duration);

/// Runs `request` such that a connection made for it takes no longer than `timeout`, name look-up and TLS included.
pub(super) async fn within<F: Future>(timeout: Duration, request: F) -> F::Output {
    TIMEOUT.scope(timeout, request).await
}

/// Puts the bound around the client's connector.
#[derive(Debug, Clone, Copy)]
pub(super) struct TimeoutLayer;

/// A connector with the bound of the request that it connects for.
#[derive(Debug, Clone)]
pub(super) struct Timed<S>(S);

impl<S> Layer<S> for TimeoutLayer {
    type Service = Timed<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Timed(inner)
    }
}

type BoxError = Box<dyn Error + Send + Sync>;

impl<S, R> Service<R> for Timed<S>
where
    S: Service<R, Error = BoxError>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, destination: R) -> Self::Future {
        // Read here, in the request's own task: the client may finish the connection in another one.
        let timeout = TIMEOUT.try_with(|timeout| *timeout).ok();
        let connecting = self.0.call(destination);
        Box::pin(async move {
            match timeout {
                None => connecting.await,
                Some(timeout) => tokio::time::timeout(timeout, connecting).await.map_err(|_| TimedOut(timeout))?,
            }
        })
    }
}
