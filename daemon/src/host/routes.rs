//! By which interface packets to an address leave, from the kernel's main routing tables.
//!
//! Good enough to find a firewall zone: policy routing is not looked at, and the fence and the
//! gateway do not depend on it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The interface towards `address`, if the tables can be read and have a route.
pub fn interface_towards(address: IpAddr) -> Option<String> {
    match address.to_canonical() {
        IpAddr::V4(address) if address.is_loopback() => Some("lo".to_owned()),
        IpAddr::V4(address) => in_ipv4(&std::fs::read_to_string("/proc/net/route").ok()?, address),
        IpAddr::V6(address) if address.is_loopback() => Some("lo".to_owned()),
        IpAddr::V6(address) => {
            in_ipv6(&std::fs::read_to_string("/proc/net/ipv6_route").ok()?, address)
        }
    }
}

/// `/proc/net/route`: interface, destination, gateway, flags, three counts, mask; numbers as the
/// little-endian machine holds them.
fn in_ipv4(table: &str, address: Ipv4Addr) -> Option<String> {
    let address = u32::from(address);
    let routes = table.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let interface = fields.next()?;
        let number = |text: &str| u32::from_str_radix(text, 16).ok().map(u32::from_be);
        let destination = number(fields.next()?)?;
        let mask = number(fields.nth(5)?)?;
        (address & mask == destination).then_some((mask.count_ones(), interface))
    });
    routes.max_by_key(|(length, _)| *length).map(|(_, interface)| interface.to_owned())
}

/// `/proc/net/ipv6_route`: destination, its length, source, its length, next hop, metric, two
/// counts, flags, interface; all hexadecimal.
fn in_ipv6(table: &str, address: Ipv6Addr) -> Option<String> {
    let address = u128::from(address);
    let routes = table.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let destination = u128::from_str_radix(fields.first()?, 16).ok()?;
        let length = u32::from_str_radix(fields.get(1)?, 16).ok().filter(|n| *n <= 128)?;
        let interface = *fields.get(9)?;
        let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
        (interface != "lo" && address & mask == destination & mask).then_some((length, interface))
    });
    routes.max_by_key(|(length, _)| *length).map(|(_, interface)| interface.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_wins() {
        let table = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
            eth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
            veth1\t00014D0A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        assert_eq!(in_ipv4(table, Ipv4Addr::new(10, 77, 1, 2)).as_deref(), Some("veth1"));
        assert_eq!(in_ipv4(table, Ipv4Addr::new(192, 0, 2, 1)).as_deref(), Some("eth0"));
        assert_eq!(in_ipv4("", Ipv4Addr::new(192, 0, 2, 1)), None);
    }

    #[test]
    fn ipv6_routes_are_read() {
        let table = "fd770001000000000000000000000000 40 00000000000000000000000000000000 00 \
            00000000000000000000000000000000 00000100 00000001 00000000 00000001    veth1\n";
        let address = "fd77:1::2".parse().unwrap();
        assert_eq!(in_ipv6(table, address).as_deref(), Some("veth1"));
        assert_eq!(in_ipv6(table, "2001:db8::1".parse().unwrap()), None);
    }
}
