//! A table of known addresses, and the whole of both address spaces against lists of networks written down apart.

use proptest::prelude::*;

use super::*;

/// Special networks as the registries of the IANA list them, in text, so that a slip in the tables is not repeated here.
const SPECIAL: [&str; 38] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "255.255.255.255/32",
    "::/128",
    "::1/128",
    "::/96",
    "::ffff:0:0:0/96",
    "64:ff9b:1::/48",
    "100::/64",
    "2001::/32",
    "2001:2::/48",
    "2001:10::/28",
    "2001:20::/28",
    "2001:db8::/32",
    "2002:7f00::/24",
    "2002:a00::/24",
    "2002:c0a8::/32",
    "64:ff9b::a00:0/104",
    "64:ff9b::a9fe:a9fe/128",
    "3fff::/20",
    "5f00::/16",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
];

fn net(text: &str) -> IpNet {
    text.parse().expect("a network")
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

#[test]
fn judges_known_addresses() {
    let policy = Policy::default();
    for (text, expected) in [
        ("1.1.1.1", None),
        ("93.184.216.34", None),
        ("100.63.255.255", None),
        ("100.128.0.0", None),
        ("172.15.255.255", None),
        ("172.32.0.0", None),
        ("223.255.255.255", None),
        ("2606:4700:4700::1111", None),
        ("2a00:1450:4001:829::200e", None),
        ("64:ff9b::101:101", None),
        ("2002:101:101::1", None),
        ("::ffff:1.1.1.1", None),
        ("127.0.0.1", Some("loopback")),
        ("0.0.0.0", Some("unspecified")),
        ("10.1.2.3", Some("private")),
        ("169.254.169.254", Some("link-local")),
        ("100.64.0.1", Some("shared (carrier-grade NAT)")),
        ("224.0.0.1", Some("multicast")),
        ("255.255.255.255", Some("reserved")),
        ("::1", Some("loopback")),
        ("::", Some("unspecified")),
        ("fe80::1", Some("link-local")),
        ("fd00:ec2::254", Some("private")),
        ("ff02::1", Some("multicast")),
        ("::ffff:127.0.0.1", Some("loopback")),
        ("::ffff:169.254.169.254", Some("link-local")),
        ("::127.0.0.1", Some("reserved")),
        ("64:ff9b::7f00:1", Some("loopback")),
        ("64:ff9b:1::a00:1", Some("private (NAT64)")),
        ("2002:7f00:1::", Some("loopback")),
        ("2001:0:4136:e378:8000:63bf:3fff:fdd2", Some("reserved")),
    ] {
        assert_eq!(policy.permits(address(text)).err().map(|refused| refused.reason), expected, "{text}");
    }
}

#[test]
fn the_allow_list_also_holds_for_hidden_addresses() {
    let policy = Policy::new([net("127.0.0.0/8"), net("::ffff:10.0.0.0/104"), net("fd00::/8")]);
    for text in
        ["127.0.0.1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "10.1.1.1", "::ffff:10.1.1.1", "fd12::1"]
    {
        assert_eq!(policy.permits(address(text)), Ok(()), "{text}");
    }
    for text in ["::1", "192.168.0.1", "::ffff:192.168.0.1", "fc00::1", "64:ff9b::c0a8:1"] {
        assert!(policy.permits(address(text)).is_err(), "{text}");
    }
    let all_v6 = Policy::new([net("::/0")]);
    assert!(all_v6.permits(address("::1")).is_ok());
    assert!(all_v6.permits(address("::ffff:127.0.0.1")).is_err(), "a mapped address is IPv4");
}

#[test]
fn the_edges_of_every_special_network_are_refused() {
    let policy = Policy::default();
    for text in SPECIAL {
        let network = net(text);
        for edge in [network.network(), network.broadcast()] {
            assert!(policy.permits(edge).is_err(), "{edge} of {text}");
        }
    }
}

/// What IPv6 is public, written down a second time: by range, from the registries of IANA, as texts.
fn is_public(address: IpAddr) -> bool {
    let within = |text: &str| net(text).contains(&address);
    let IpAddr::V6(v6) = address else { return !SPECIAL.iter().any(|text| net(text).contains(&address)) };
    let octets = v6.octets();
    let v4_at =
        |at: usize| is_public(IpAddr::from(<[u8; 4]>::try_from(&octets[at..at + 4]).expect("four of sixteen octets")));
    if within("::ffff:0:0/96") || within("64:ff9b::/96") {
        return v4_at(12);
    }
    if within("2002::/16") {
        return v4_at(2);
    }
    let reserved = ["2001::/23", "2001:db8::/32", "3fff::/20"];
    within("2000::/3") && !reserved.into_iter().any(within)
}

/// An address of any kind, often next to the edge of a special network or hiding an IPv4 one, which chance alone would
/// hardly meet.
fn any_address() -> impl Strategy<Value = IpAddr> {
    let near = (0..SPECIAL.len(), any::<bool>(), -2i8..=2).prop_map(|(which, end, step)| {
        let network = net(SPECIAL[which]);
        match if end { network.broadcast() } else { network.network() } {
            IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits().wrapping_add_signed(step.into())).into(),
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits().wrapping_add_signed(step.into())).into(),
        }
    });
    let v4 = prop_oneof![
        any::<u32>().prop_map(Ipv4Addr::from_bits),
        near.clone().prop_filter_map("IPv4", |address| match address {
            IpAddr::V4(v4) => Some(v4),
            IpAddr::V6(_) => None,
        })
    ];
    let hidden = (v4, 0..5usize, any::<u64>()).prop_map(|(v4, how, rest)| {
        let [a, b, c, d] = v4.octets();
        let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        let any = (rest >> 48) as u16;
        IpAddr::V6(match how {
            0 => v4.to_ipv6_mapped(),
            1 => Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
            2 => Ipv6Addr::new(0x64, 0xff9b, 1, any, 0, 0, high, low),
            3 => Ipv6Addr::new(0x2002, high, low, any, 0, 0, 0, rest as u16),
            // Teredo has it inverted.
            _ => Ipv6Addr::new(0x2001, 0, any, any, 0, 0, !high, !low),
        })
    });
    prop_oneof![
        any::<u32>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))),
        any::<u128>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))),
        // Within the part of IPv6 that is in use.
        any::<u128>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits >> 3 | 1 << 125))),
        near,
        hidden,
    ]
}

#[test]
fn ports_are_denied_at_every_address() {
    let policy = Policy::new([net("127.0.0.0/8")]).denying_ports([22, 25]);
    assert_eq!(policy.permits_port(25), Err(RefusedPort { port: 25 }));
    assert_eq!(policy.permits_port(443), Ok(()));
    assert_eq!(Policy::default().permits_port(25), Ok(()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn an_address_is_let_through_exactly_when_it_is_public(address in any_address()) {
        prop_assert_eq!(Policy::default().permits(address).is_ok(), is_public(address), "{}", address);
    }

    #[test]
    fn what_is_allowed_beside_the_public_is_let_through_and_nothing_else(
        address in any_address(), inside in any_address(), prefix in 0u8..=128,
    ) {
        let network = match inside {
            IpAddr::V4(v4) => IpNet::V4(Ipv4Net::new(v4, prefix.min(32)).expect("a network").trunc()),
            IpAddr::V6(v6) => IpNet::V6(ipnet::Ipv6Net::new(v6, prefix).expect("a network").trunc()),
        };
        // What is dialled as IPv4 is let through by IPv4 networks only, and one of mapped addresses is one.
        let policy = Policy::new([network]);
        prop_assert!(policy.permits(address).is_ok() || !is_public(address), "{} is public", address);
        if policy.permits(address).is_ok() && !is_public(address) {
            let reached = [Some(address), mapped(address), embedded(address)];
            let allowed = |ip: IpAddr| network.contains(&ip) || unmapped(network).contains(&ip);
            prop_assert!(reached.into_iter().flatten().any(allowed), "{} by {}", address, network);
        }
    }
}

fn mapped(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map(IpAddr::V4),
        IpAddr::V4(_) => None,
    }
}

fn embedded(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V6(v6) => embedded_v4(v6).map(IpAddr::V4),
        IpAddr::V4(_) => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn ipv4_is_refused_exactly_when_special_and_its_mapped_form_alike(bits in any::<u32>()) {
        let v4 = Ipv4Addr::from_bits(bits);
        let special = SPECIAL.iter().any(|text| net(text).contains(&IpAddr::V4(v4)));
        let policy = Policy::default();
        prop_assert_eq!(policy.permits(v4.into()).is_err(), special);
        prop_assert_eq!(policy.permits(v4.to_ipv6_mapped().into()), policy.permits(v4.into()));
    }

    #[test]
    fn nothing_special_in_ipv6_is_let_through(bits in any::<u128>(), which in 16usize..SPECIAL.len()) {
        let policy = Policy::default();
        // Anywhere, and within each special network, which chance alone would hardly meet.
        let network = net(SPECIAL[which]);
        let IpNet::V6(v6) = network else { unreachable!("the list's end is IPv6") };
        let inside = Ipv6Addr::from_bits(v6.network().to_bits() | (bits & v6.hostmask().to_bits()));
        prop_assert!(policy.permits(inside.into()).is_err(), "{} of {}", inside, network);
        let anywhere = Ipv6Addr::from_bits(bits);
        let special = SPECIAL.iter().any(|text| net(text).contains(&IpAddr::V6(anywhere)));
        if special || bits >> 125 != 1 {
            prop_assert!(policy.permits(anywhere.into()).is_err(), "{}", anywhere);
        }
        prop_assert!(Policy::new([network]).permits(inside.into()).is_ok(), "{} is allowed", inside);
    }

    #[test]
    fn an_allowed_network_is_let_through_and_no_other(bits in any::<u32>(), prefix in 0u8..=32, other in any::<u32>()) {
        let allowed = Ipv4Net::new(Ipv4Addr::from_bits(bits), prefix).expect("a network").trunc();
        let policy = Policy::new([IpNet::V4(allowed)]);
        prop_assert!(policy.permits(IpAddr::V4(Ipv4Addr::from_bits(bits))).is_ok());
        let other = Ipv4Addr::from_bits(other);
        let expected = allowed.contains(&other) || Policy::default().permits(other.into()).is_ok();
        prop_assert_eq!(policy.permits(other.into()).is_ok(), expected);
    }
}
