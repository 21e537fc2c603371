//! The daemon's own log during a demonstration: all of it to a file, and what a person should see to the account.

use std::fmt::Write as _;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, fmt};

use super::account::{Account, Mark};

/// What goes to the file: libraries only when something is wrong.
const FILTER: &str = "warn,sluiced=info";

/// Starts logging to `file` and `account`.
pub(super) fn start(file: &Path, account: Account) -> std::io::Result<()> {
    let file = File::options().create(true).append(true).open(file)?;
    let whole = fmt::layer().with_ansi(false).with_target(false).with_writer(Arc::new(file));
    let logged = tracing_subscriber::registry().with(EnvFilter::new(FILTER)).with(whole).with(Told(account));
    // A process that logs already, as a test may, goes on as it does.
    let _ = logged.try_init();
    Ok(())
}

/// Warnings, errors, and what the daemon as a whole does: a reload, a stop.
struct Told(Account);

impl<S: Subscriber> Layer<S> for Told {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let of_app = event.metadata().target().starts_with("sluiced::app");
        if *event.metadata().level() > Level::WARN && !of_app {
            return;
        }
        let mut text = Text::default();
        event.record(&mut text);
        self.0.line(Mark::Note, "daemon", "", &format!("{}{}", text.message, text.fields));
    }
}

#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Writing to a text never fails.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}
