//! What a stream holds, asked once for all who want to know it at the same time.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use parking_lot::Mutex;

use super::log::Log;
use crate::domain::StreamName;
use crate::ingest::{Error, StreamFacts};

type Asked = Shared<BoxFuture<'static, Result<StreamFacts, Arc<Error>>>>;

/// Asks for the facts of streams. One question a stream is under way at a time; whoever comes meanwhile shares the next
/// one, which begins after he came: a thousand clients that connect at once are two questions.
pub(super) struct Lookup {
    log: Arc<dyn Log>,
    streams: Mutex<HashMap<StreamName, Arc<Line>>>,
}

#[derive(Default)]
struct Line {
    /// Held by the question that is under way.
    turn: tokio::sync::Mutex<()>,
    /// The one that has not begun.
    next: Mutex<Option<Asked>>,
}

impl Lookup {
    pub(super) fn new(log: Arc<dyn Log>) -> Self {
        Self { log, streams: Mutex::default() }
    }

    /// What the stream holds at some time after this was called.
    pub(super) async fn facts(&self, stream: &StreamName) -> Result<StreamFacts, Arc<Error>> {
        let line = Arc::clone(self.streams.lock().entry(stream.clone()).or_default());
        let asked = {
            let mut next = line.next.lock();
            next.get_or_insert_with(|| ask(Arc::clone(&self.log), Arc::clone(&line), stream.clone())).clone()
        };
        asked.await
    }
}

fn ask(log: Arc<dyn Log>, line: Arc<Line>, stream: StreamName) -> Asked {
    let ask = async move {
        let _turn = line.turn.lock().await;
        line.next.lock().take();
        log.facts(&stream).await.map_err(Arc::new)
    };
    ask.boxed().shared()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use futures_util::future::join_all;

    use super::*;
    use crate::stream::testing::{MemoryLog, name};

    #[tokio::test(start_paused = true)]
    async fn many_who_ask_at_once_are_few_questions_and_none_is_told_of_the_past() {
        let log = MemoryLog::new(&["EVENTS"]);
        let lookup = Lookup::new(Arc::clone(&log) as Arc<dyn Log>);
        let stream = name("EVENTS");
        let told = join_all((0..100).map(|_| lookup.facts(&stream))).await;
        assert!(told.iter().all(|facts| facts.as_ref().is_ok_and(|facts| facts.last_sequence == 0)));
        assert!(log.questions.load(Ordering::Relaxed) <= 2);
        // The first question is under way when the event comes: who asks after it knows of it.
        let later = async {
            tokio::task::yield_now().await;
            log.append("EVENTS", "a");
            lookup.facts(&stream).await
        };
        let (_, later) = tokio::join!(lookup.facts(&stream), later);
        assert_eq!(later.expect("it answers").last_sequence, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_goes_on_when_who_asked_it_first_has_gone() {
        let log = MemoryLog::new(&["EVENTS"]);
        let lookup = Lookup::new(Arc::clone(&log) as Arc<dyn Log>);
        let stream = name("EVENTS");
        let mut first = Box::pin(lookup.facts(&stream));
        assert!(futures_util::poll!(&mut first).is_pending());
        let mut second = Box::pin(lookup.facts(&stream));
        assert!(futures_util::poll!(&mut second).is_pending());
        drop(first);
        assert!(second.await.is_ok());
    }
}
