//! Which addresses and ports an endpoint may lead to.
//!
//! Endpoints are written by customers, so a URL must not be a way into the network that the daemon stands in. Every
//! address is judged before it is dialled, whether it came from a name or stood in the URL, and an IPv4 address that
//! hides in an IPv6 one is judged as the IPv4 address it reaches. Ports of services that do not speak HTTP, and could
//! take a request for something else, are refused at every address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};

/// An address that the policy does not let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{reason} addresses are refused")]
pub struct Refused {
    /// What kind of address it is: `private`, `loopback` and so on.
    pub reason: &'static str,
}

/// A port that the policy does not let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("port {port} is refused")]
pub struct RefusedPort {
    /// The port.
    pub port: u16,
}

/// Judges addresses: only those of the public internet and those in `allow` are let through. Judges ports: all but those
/// in `deny_ports` are.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    allow: Vec<IpNet>,
    deny_ports: Vec<u16>,
}

/// The parts of IPv4 that are not the public internet: first address, prefix length, reason.
const SPECIAL_V4: [(Ipv4Addr, u8, &str); 15] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8, "unspecified"),
    (Ipv4Addr::new(10, 0, 0, 0), 8, "private"),
    (Ipv4Addr::new(100, 64, 0, 0), 10, "shared (carrier-grade NAT)"),
    (Ipv4Addr::new(127, 0, 0, 0), 8, "loopback"),
    (Ipv4Addr::new(169, 254, 0, 0), 16, "link-local"),
    (Ipv4Addr::new(172, 16, 0, 0), 12, "private"),
    (Ipv4Addr::new(192, 0, 0, 0), 24, "reserved"),
    (Ipv4Addr::new(192, 0, 2, 0), 24, "documentation"),
    (Ipv4Addr::new(192, 88, 99, 0), 24, "reserved"),
    (Ipv4Addr::new(192, 168, 0, 0), 16, "private"),
    (Ipv4Addr::new(198, 18, 0, 0), 15, "benchmarking"),
    (Ipv4Addr::new(198, 51, 100, 0), 24, "documentation"),
    (Ipv4Addr::new(203, 0, 113, 0), 24, "documentation"),
    (Ipv4Addr::new(224, 0, 0, 0), 4, "multicast"),
    (Ipv4Addr::new(240, 0, 0, 0), 4, "reserved"),
];

/// The parts of IPv6 that have a reason of their own. What is in none of them and outside of `2000::/3` is reserved.
const SPECIAL_V6: [(Ipv6Addr, u8, &str); 11] = [
    (Ipv6Addr::UNSPECIFIED, 128, "unspecified"),
    (Ipv6Addr::LOCALHOST, 128, "loopback"),
    (Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0), 48, "private (NAT64)"),
    (Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0), 64, "discard"),
    // Teredo, benchmarking and other protocol assignments.
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23, "reserved"),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32, "documentation"),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20, "documentation"),
    (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7, "private"),
    (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10, "link-local"),
    (Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0), 10, "site-local"),
    (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8, "multicast"),
];

impl Policy {
    /// A policy that also lets `allow` through. A network of IPv4-mapped IPv6 addresses counts as the IPv4 network.
    pub fn new(allow: impl IntoIterator<Item = IpNet>) -> Self {
        Self { allow: allow.into_iter().map(unmapped).collect(), deny_ports: Vec::new() }
    }

    /// The policy that also refuses these ports, whatever the address.
    #[must_use]
    pub fn denying_ports(self, ports: impl IntoIterator<Item = u16>) -> Self {
        Self { deny_ports: ports.into_iter().collect(), ..self }
    }

    /// Judges a port.
    ///
    /// # Errors
    /// When it is denied.
    pub fn permits_port(&self, port: u16) -> Result<(), RefusedPort> {
        if self.deny_ports.contains(&port) { Err(RefusedPort { port }) } else { Ok(()) }
    }

    /// Judges one address.
    ///
    /// # Errors
    /// When the address is special and not in the allow list.
    pub fn permits(&self, address: IpAddr) -> Result<(), Refused> {
        match address {
            IpAddr::V4(address) => self.permits_v4(address),
            IpAddr::V6(address) => self.permits_v6(address),
        }
    }

    fn permits_v4(&self, address: Ipv4Addr) -> Result<(), Refused> {
        let special = SPECIAL_V4
            .iter()
            .find(|(network, prefix, _)| (address.to_bits() ^ network.to_bits()).leading_zeros() >= u32::from(*prefix));
        match special {
            Some((_, _, reason)) if !self.allows(address.into()) => Err(Refused { reason }),
            _ => Ok(()),
        }
    }

    fn permits_v6(&self, address: Ipv6Addr) -> Result<(), Refused> {
        // A mapped address is dialled as IPv4, so an allowed IPv6 network must not let it through.
        if let Some(mapped) = address.to_ipv4_mapped() {
            return self.permits_v4(mapped);
        }
        if self.allows(address.into()) {
            return Ok(());
        }
        if let Some(embedded) = embedded_v4(address) {
            return self.permits_v4(embedded);
        }
        let special = SPECIAL_V6
            .iter()
            .find(|(network, prefix, _)| (address.to_bits() ^ network.to_bits()).leading_zeros() >= u32::from(*prefix));
        match special {
            Some((_, _, reason)) => Err(Refused { reason }),
            None if address.segments()[0] & 0xe000 == 0x2000 => Ok(()),
            None => Err(Refused { reason: "reserved" }),
        }
    }

    fn allows(&self, address: IpAddr) -> bool {
        self.allow.iter().any(|network| network.contains(&address))
    }
}

/// The IPv4 address that a NAT64 (`64:ff9b::/96`) or 6to4 (`2002::/16`) address leads to.
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let join = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    match address.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => Some(join(high, low)),
        _ => None,
    }
}

/// The IPv4 network that a network of IPv4-mapped addresses stands for; any other network as it is.
fn unmapped(network: IpNet) -> IpNet {
    let IpNet::V6(v6) = network else { return network };
    let v4 = v6.network().to_ipv4_mapped().zip(v6.prefix_len().checked_sub(96));
    v4.and_then(|(address, prefix)| Ipv4Net::new(address, prefix).ok()).map_or(network, IpNet::V4)
}

#[cfg(test)]
mod tests;
