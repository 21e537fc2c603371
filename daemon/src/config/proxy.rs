//! The proxy of the webhooks and how to log in to it.

use url::Url;

use super::places::KeyPath;
use super::report::Report;
use super::{Proxy, ProxyLogin, Secret, raw};

/// The longest user name or password, in bytes.
const LOGIN_BYTES_MAX: usize = 256;

/// Checks `proxy`, `proxy_user` and `proxy_password` of the table at `at`.
pub(super) fn proxy(at: &KeyPath, raw: &raw::Delivery, report: &mut Report<'_>) -> Option<Option<Proxy>> {
    let login = match (&raw.proxy_user, &raw.proxy_password) {
        (None, None) => Some(None),
        (Some(user), Some(password)) => {
            let user = report.check(&at.key("proxy_user"), user_name(user));
            let password = report.check(&at.key("proxy_password"), visible(password));
            user.zip(password)
                .map(|(user, password)| Some(ProxyLogin { user: user.to_owned(), password: Secret(password.into()) }))
        }
        (Some(_), None) => {
            report.problem(&at.key("proxy_user"), "needs `proxy_password` beside it");
            None
        }
        (None, Some(_)) => {
            report.problem(&at.key("proxy_password"), "needs `proxy_user` beside it");
            None
        }
    };
    let Some(text) = &raw.proxy else {
        if raw.proxy_user.is_some() {
            report.problem(&at.key("proxy_user"), "has no meaning without `proxy`");
            return None;
        }
        return Some(None);
    };
    let place = report.check(&at.key("proxy"), address(text));
    let (host, port) = place?;
    Some(Some(Proxy { host, port, login: login? }))
}

/// The reasons do not show the text: it may hold a password.
fn address(text: &str) -> Result<(String, u16), &'static str> {
    let url = Url::parse(text).map_err(|_| "must be a URL such as \"http://proxy.example:3128\"")?;
    if url.scheme() != "http" {
        return Err("must begin with http://: the daemon speaks plain HTTP to a proxy, and TLS through it");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not hold a user or password: use delivery.proxy_user and delivery.proxy_password");
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err("must end after the port: a proxy has no path");
    }
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or("names no host")?;
    Ok((host.to_owned(), url.port_or_known_default().unwrap_or(80)))
}

fn user_name(text: &str) -> Result<&str, &'static str> {
    let text = visible(text)?;
    if text.contains(':') { Err("must not hold a colon: it ends the user name") } else { Ok(text) }
}

fn visible(text: &str) -> Result<&str, &'static str> {
    let usable = (1..=LOGIN_BYTES_MAX).contains(&text.len()) && text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if usable { Ok(text) } else { Err("must be 1 to 256 visible ASCII characters") }
}
