//! A daemon's API, for the commands that ask it: where it is, the key, one request, and its problems.

mod table;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use clap::Args;
use http::header::RETRY_AFTER;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

use super::{ConfigArgs, environment, write_out};
use crate::config::{self, Config, Overrides};
use crate::deliver::tls;
use crate::telemetry::chain;

pub(super) use table::{fields, plain, rows};

/// Where a daemon listens when nothing is said.
const URL: &str = "http://127.0.0.1:8080";
/// How long the daemon may take to answer: it may have to search streams.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(60);
/// How many entries of a list are asked for at a time: the most that the daemon gives.
const PAGE_MAX: u32 = 100;
/// The longest answer that is read.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// The exit codes of what the daemon refuses, and of a daemon that cannot be asked (`EX_NOPERM` and `EX_UNAVAILABLE` of
/// sysexits.h).
const EXIT_REFUSED: u8 = 77;
const EXIT_UNAVAILABLE: u8 = 69;

/// Which daemon to ask, and how to print what it says.
#[derive(Debug, Args)]
pub struct Remote {
    /// The daemon's API; without it SLUICED_URL, else http://127.0.0.1:8080.
    #[arg(long, global = true, value_name = "URL")]
    url: Option<String>,
    /// Ask the daemon that runs with this configuration: at its address and, unless a key is given, with its admin key.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The key or token; better given as SLUICED_API_KEY.
    #[arg(long, global = true, value_name = "KEY")]
    key: Option<String>,
    /// For https: the certificate authorities (PEM) to trust in the place of the system's.
    #[arg(long, global = true, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Print JSON as it came.
    #[arg(long, global = true)]
    json: bool,
}

/// Why the daemon did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It answered with a problem.
    #[error("{detail} ({status} {code})")]
    Refused {
        /// The status.
        status: u16,
        /// The problem's code.
        code: String,
        /// What it was.
        detail: String,
        /// After how many seconds it is worth trying again, where the daemon says so.
        retry_after_s: Option<u64>,
    },
    /// It does not answer.
    #[error("no daemon answers at {url}: {reason}")]
    Unreachable {
        /// Where it was looked for.
        url: String,
        /// What went wrong.
        reason: String,
    },
}

impl Failure {
    /// The exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Refused { status: 401 | 403, .. } => EXIT_REFUSED,
            Self::Refused { status: 500.., .. } | Self::Unreachable { .. } => EXIT_UNAVAILABLE,
            Self::Refused { .. } => super::EXIT_FAILURE,
        }
    }
}

/// A daemon that can be asked.
pub(super) struct Daemon {
    base: String,
    key: Option<String>,
    http: Client<tls::Dialer, Full<Bytes>>,
}

impl Remote {
    /// The daemon at a URL that runs with this configuration, for a command that can do without one.
    pub(super) fn at(url: &str, ca: Option<&Path>, config: &ConfigArgs) -> Self {
        let (url, config) = (Some(url.to_owned()), Some(config.config.clone()));
        Self { url, config, key: None, ca: ca.map(Path::to_owned), json: false }
    }

    /// The daemon.
    ///
    /// # Errors
    /// When the arguments or the configuration do not say where it is.
    pub(super) fn daemon(&self) -> anyhow::Result<Daemon> {
        let variable = |name| std::env::var(name).ok().filter(|value: &String| !value.is_empty());
        let config = self.config.as_ref().map(|file| config::load(Some(file), environment(), Overrides::default()));
        let config = config.transpose()?;
        let of_config = config.as_ref().map(address).transpose()?;
        let url = self.url.clone().or(of_config).or_else(|| variable("SLUICED_URL")).unwrap_or_else(|| URL.to_owned());
        if !(url.starts_with("http://") || url.starts_with("https://")) {
            bail!("{url} is not an http:// or https:// URL");
        }
        let admin = config.and_then(|config| config.auth.admin_key.map(|key| key.expose().to_owned()));
        let given = self.key.clone().or_else(|| variable("SLUICED_API_KEY"));
        let key = given.or(admin).or_else(|| variable("SLUICED_AUTH__ADMIN_KEY"));
        let http = Client::builder(TokioExecutor::new()).build(tls::dialer(self.ca.as_deref())?);
        Ok(Daemon { base: url.trim_end_matches('/').to_owned(), key, http })
    }

    /// The daemon's address, without a slash at its end.
    ///
    /// # Errors
    /// As [`Remote::daemon`].
    pub(super) fn base(&self) -> anyhow::Result<String> {
        Ok(self.daemon()?.base)
    }

    /// Asks for something and prints the answer: as it came, or as `shown` makes it for people.
    ///
    /// # Errors
    /// When the daemon cannot be asked, or refuses.
    pub(super) fn ask(&self, request: &Ask, shown: impl FnOnce(&Value) -> String) -> anyhow::Result<()> {
        let daemon = self.daemon()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let answer = runtime.block_on(daemon.ask(request))?;
        match (self.json, &answer) {
            (true, answer) => write_out(&format!("{answer:#}\n")),
            (false, answer) => write_out(&shown(answer)),
        }
    }

    /// Asks for a list and prints all of it, however many pages it has: as one answer, or as `shown` makes it for people.
    ///
    /// # Errors
    /// When the daemon cannot be asked, or refuses.
    pub(super) fn ask_all(
        &self,
        request: &Ask,
        list: &str,
        shown: impl FnOnce(&Value) -> String,
    ) -> anyhow::Result<()> {
        let daemon = self.daemon()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let all = runtime.block_on(daemon.all(request, list))?;
        match self.json {
            true => write_out(&format!("{:#}\n", json!({ list: all }))),
            false => write_out(&shown(&all)),
        }
    }

    /// Is JSON to be printed?
    pub(super) fn is_json(&self) -> bool {
        self.json
    }
}

/// The address of the daemon that runs with a configuration.
fn address(config: &Config) -> anyhow::Result<String> {
    let listen = match config.server.listen.port() {
        0 => {
            let file = config.data_dir.join("listen");
            let text = std::fs::read_to_string(&file);
            text.with_context(|| format!("no daemon has written its address to {}", file.display()))?.trim().to_owned()
        }
        _ => config.server.listen.to_string(),
    };
    let scheme = if config.server.tls.is_some() { "https" } else { "http" };
    Ok(format!("{scheme}://{listen}"))
}

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub(super) struct Ask {
    method: Method,
    path: String,
    /// Whether the path is the whole one, and not below the API's.
    is_beside_the_api: bool,
    query: Vec<(&'static str, String)>,
    headers: Vec<(&'static str, String)>,
    body: Option<Value>,
    /// How long the answer may take, where that is not [`ANSWER_TIME_MAX`].
    time_max: Option<Duration>,
}

impl Ask {
    /// A request; the path begins after `/api/v1`, and its parts are escaped already.
    pub(super) fn new(method: Method, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), ..Self::default() }
    }

    /// Asks for something with GET.
    pub(super) fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    /// Asks for a change with POST.
    pub(super) fn post(path: impl Into<String>) -> Self {
        Self::new(Method::POST, path)
    }

    /// At its path alone and without a key: what the daemon serves beside its API.
    pub(super) fn beside_the_api(mut self) -> Self {
        self.is_beside_the_api = true;
        self
    }

    /// With a parameter of the query, when there is a value.
    pub(super) fn with(mut self, name: &'static str, value: Option<impl ToString>) -> Self {
        self.query.extend(value.map(|value| (name, value.to_string())));
        self
    }

    /// With a header, when there is a value.
    pub(super) fn header(mut self, name: &'static str, value: Option<impl ToString>) -> Self {
        self.headers.extend(value.map(|value| (name, value.to_string())));
        self
    }

    /// With a body.
    pub(super) fn body(mut self, body: Value) -> Self {
        self.body = Some(body);
        self
    }

    /// With an answer that may take this long.
    pub(super) fn within(mut self, time_max: Duration) -> Self {
        self.time_max = Some(time_max);
        self
    }

    fn target(&self, base: &str) -> String {
        let query: Vec<String> = self.query.iter().map(|(name, value)| format!("{name}={}", escaped(value))).collect();
        let mark = if query.is_empty() { "" } else { "?" };
        let api = if self.is_beside_the_api { "" } else { "/api/v1" };
        format!("{base}{api}{}{mark}{}", self.path, query.join("&"))
    }
}

impl Daemon {
    /// Asks, and reads the whole answer; `null` when it is empty.
    ///
    /// # Errors
    /// When it cannot be asked, or refuses.
    pub(super) async fn ask(&self, ask: &Ask) -> anyhow::Result<Value> {
        let whole = async {
            let response = self.send(ask).await?;
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|error| anyhow::anyhow!(error).context("the answer broke off"))?.to_bytes();
            match body.is_empty() {
                true => Ok(Value::Null),
                false => serde_json::from_slice(&body).context("what answered is not sluiced: its answer is not JSON"),
            }
        };
        tokio::time::timeout(ask.time_max.unwrap_or(ANSWER_TIME_MAX), whole)
            .await
            .context("the daemon took too long")?
    }

    /// All entries of a list, page by page. Where the daemon says that there were too many requests, it waits as told.
    ///
    /// # Errors
    /// When it cannot be asked, or refuses.
    async fn all(&self, ask: &Ask, list: &str) -> anyhow::Result<Value> {
        let (mut all, mut cursor) = (Vec::new(), None);
        loop {
            let page = ask.clone().with("limit", Some(PAGE_MAX)).with("cursor", cursor.as_ref());
            let mut answer = match self.ask(&page).await {
                Ok(answer) => answer,
                Err(error) => match error.downcast_ref() {
                    Some(Failure::Refused { status: 429, retry_after_s: Some(after_s), .. }) => {
                        tokio::time::sleep(Duration::from_secs(*after_s)).await;
                        continue;
                    }
                    _ => return Err(error),
                },
            };
            if let Value::Array(entries) = answer[list].take() {
                all.extend(entries);
            }
            cursor = answer["next"].as_str().map(ToOwned::to_owned);
            if cursor.is_none() {
                return Ok(all.into());
            }
        }
    }

    /// Sends a request; the answer is a good one, and its body is still to come.
    ///
    /// # Errors
    /// When it cannot be asked, or refuses.
    pub(super) async fn send(&self, ask: &Ask) -> anyhow::Result<Response<Incoming>> {
        let mut request = Request::builder().method(&ask.method).uri(ask.target(&self.base));
        if let Some(key) = self.key.as_ref().filter(|_| !ask.is_beside_the_api) {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        for (name, value) in &ask.headers {
            request = request.header(*name, value);
        }
        let body = ask.body.as_ref().map(Value::to_string).unwrap_or_default();
        if ask.body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let request = request.body(Full::from(body)).with_context(|| format!("{} cannot be asked", self.base))?;
        let response = self.http.request(request).await.map_err(|error| {
            let reason = std::error::Error::source(&error).map_or_else(|| error.to_string(), chain);
            Failure::Unreachable { url: self.base.clone(), reason }
        })?;
        match response.status() {
            status if status.is_success() => Ok(response),
            _ => Err(refused(response).await.into()),
        }
    }
}

/// What a problem says.
async fn refused(response: Response<Incoming>) -> Failure {
    let status = response.status();
    let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
        .collect()
        .await
        .map(|body| body.to_bytes())
        .unwrap_or_default();
    let problem: Value = serde_json::from_slice(&body).unwrap_or_default();
    let text = |name: &str, other: &str| plain(problem[name].as_str().unwrap_or(other));
    let no_more = not_ready(&problem).unwrap_or_else(|| "the daemon refused and said no more".to_owned());
    Failure::Refused {
        status: status.as_u16(),
        code: text("code", status.canonical_reason().unwrap_or_default()),
        detail: text("detail", &no_more),
        retry_after_s: retry_after,
    }
}

/// What the daemon's parts wait for, when that is what it answered.
fn not_ready(answer: &Value) -> Option<String> {
    let parts = answer["components"].as_object()?.iter();
    let causes = parts.filter_map(|(name, part)| Some(format!("{name}: {}", part["cause"].as_str()?)));
    Some(format!("not ready: {}", causes.collect::<Vec<_>>().join("; ")))
}

/// A text as one segment of a path, or one value of a query.
pub(super) fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        match byte {
            b'-' | b'_' | b'.' | b'~' | b':' => escaped.push(char::from(byte)),
            byte if byte.is_ascii_alphanumeric() => escaped.push(char::from(byte)),
            byte => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_what_is_said_and_leaves_out_the_rest() {
        let ask = Ask::get(format!("/events/{}", escaped("a/b ?ö"))).with("limit", Some(3)).with("to", None::<String>);
        assert_eq!(ask.target("http://x"), "http://x/api/v1/events/a%2Fb%20%3F%C3%B6?limit=3");
        assert_eq!(Ask::get("/keys").target("http://x"), "http://x/api/v1/keys");
    }

    #[test]
    fn who_is_refused_and_who_cannot_ask_end_otherwise() {
        let refused = |status| {
            let (code, detail) = (String::new(), String::new());
            Failure::Refused { status, code, detail, retry_after_s: None }.exit_code()
        };
        assert_eq!([refused(400), refused(401), refused(403), refused(404), refused(503)], [1, 77, 77, 1, 69]);
    }
}
