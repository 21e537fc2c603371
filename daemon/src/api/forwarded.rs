//! The address that a request comes from when proxies stand before the daemon, as far as those that are trusted say it.
//!
//! A proxy adds whom it was asked by at the end of a header (`X-Forwarded-For`, or `Forwarded` of RFC 7239). Whoever asks can
//! write there what he likes, but only in front of it: so the list is read from its end, past the hops that are trusted
//! proxies themselves, and the first other one is the client.

use std::net::{IpAddr, SocketAddr};

use http::header::{FORWARDED, HeaderName};
use http::{HeaderMap, HeaderValue};
use ipnet::IpNet;

/// How many hops of one request are looked at.
const HOPS_MAX: usize = 32;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The header that says where a request comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`: addresses with commas between them.
    #[default]
    XForwardedFor,
    /// `Forwarded`, as RFC 7239 has it.
    Forwarded,
}

/// The proxies that stand before the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Proxies {
    /// Their networks.
    pub trusted: Vec<IpNet>,
    /// What they say it in.
    pub header: ForwardedHeader,
}

impl Proxies {
    /// Whom a request is from that `peer` has sent. A hop that cannot be read ends the list: the one who named it, which is
    /// the last that is known, answers for it.
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer.to_canonical();
        let name = match self.header {
            ForwardedHeader::XForwardedFor => X_FORWARDED_FOR,
            ForwardedHeader::Forwarded => FORWARDED,
        };
        let lines: Vec<&HeaderValue> = headers.get_all(name).iter().collect();
        let mut hops = lines.iter().rev().flat_map(|line| self.hops(line)).take(HOPS_MAX);
        while self.trusts(client) {
            match hops.next() {
                Some(Some(hop)) => client = hop,
                Some(None) | None => break,
            }
        }
        client
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(&address))
    }

    /// The hops of one line of the header, the last one first; `None` for one that cannot be read.
    fn hops<'a>(&self, line: &'a HeaderValue) -> impl Iterator<Item = Option<IpAddr>> + use<'a> {
        let header = self.header;
        let text = line.to_str().unwrap_or_default();
        text.rsplit(',').map(move |hop| match header {
            ForwardedHeader::XForwardedFor => node(hop.trim()),
            ForwardedHeader::Forwarded => node(named_for(hop)?),
        })
    }
}

/// What a hop of `Forwarded` says after `for=`, without its quotes.
fn named_for(hop: &str) -> Option<&str> {
    let pairs = hop.split(';').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.into_iter().find(|(name, _)| name.trim().eq_ignore_ascii_case("for"))?;
    let value = value.trim();
    Some(value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value))
}

/// An address, with a port or without; nothing of `unknown` and of names that hide one.
fn node(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()));
    address.map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(header: ForwardedHeader) -> Proxies {
        let trusted = ["10.0.0.0/8", "fd00::/8"].map(|text| text.parse().expect("a network"));
        Proxies { trusted: trusted.into(), header }
    }

    fn client(proxies: &Proxies, peer: &str, lines: &[&str]) -> String {
        let name = match proxies.header {
            ForwardedHeader::XForwardedFor => X_FORWARDED_FOR,
            ForwardedHeader::Forwarded => FORWARDED,
        };
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(name.clone(), line.parse().expect("a value"));
        }
        proxies.client(peer.parse().expect("an address"), &headers).to_string()
    }

    #[test]
    fn the_right_most_hop_that_is_no_trusted_proxy_is_the_client() {
        let proxies = proxies(ForwardedHeader::XForwardedFor);
        for (peer, lines, expected) in [
            ("203.0.113.1", &["198.51.100.1"][..], "203.0.113.1"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["198.51.100.1"], "198.51.100.1"),
            ("::ffff:10.0.0.1", &["::ffff:198.51.100.1"], "198.51.100.1"),
            ("10.0.0.1", &["1.2.3.4, 198.51.100.1"], "198.51.100.1"),
            ("10.0.0.1", &["1.2.3.4, 198.51.100.1, 10.9.9.9"], "198.51.100.1"),
            ("10.0.0.1", &["1.2.3.4", "198.51.100.1,fd00::7"], "198.51.100.1"),
            ("10.0.0.1", &["198.51.100.1:4711"], "198.51.100.1"),
            ("fd00::1", &["[2001:db8::1]:80"], "2001:db8::1"),
            ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            ("10.0.0.1", &["198.51.100.1, unknown"], "10.0.0.1"),
            ("10.0.0.1", &["198.51.100.1, nonsense, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", &[""], "10.0.0.1"),
        ] {
            assert_eq!(client(&proxies, peer, lines), expected, "{peer} {lines:?}");
        }
        let none = Proxies::default();
        assert_eq!(client(&none, "10.0.0.1", &["198.51.100.1"]), "10.0.0.1", "nobody is trusted unless it is said");
    }

    #[test]
    fn the_standard_s_header_is_read_when_it_is_the_one_that_is_named() {
        let proxies = proxies(ForwardedHeader::Forwarded);
        for (line, expected) in [
            ("for=198.51.100.1", "198.51.100.1"),
            ("For=\"[2001:db8:cafe::17]:4711\";proto=https", "2001:db8:cafe::17"),
            ("for=1.2.3.4, proto=http;for=198.51.100.1;by=10.0.0.1, for=10.0.0.2", "198.51.100.1"),
            ("for=198.51.100.1, for=_hidden", "10.0.0.1"),
            ("proto=https", "10.0.0.1"),
        ] {
            assert_eq!(client(&proxies, "10.0.0.1", &[line]), expected, "{line}");
        }
        let mut other = HeaderMap::new();
        other.insert(X_FORWARDED_FOR, "198.51.100.1".parse().expect("a value"));
        assert_eq!(proxies.client("10.0.0.1".parse().expect("an address"), &other).to_string(), "10.0.0.1");
    }

    #[test]
    fn a_list_without_end_is_not_read_without_end() {
        let proxies = proxies(ForwardedHeader::XForwardedFor);
        let line = format!("198.51.100.1, {}", vec!["10.0.0.2"; 1_000].join(","));
        assert_eq!(client(&proxies, "10.0.0.1", &[&line]), "10.0.0.2");
    }
}
