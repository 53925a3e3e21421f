//! firewalld over D-Bus: rich rules in the runtime configuration. In the permanent one they are only
//! looked for and removed, where somebody else has put them.

use godebug_api::Cidr;
use godebug_core::plan::is_ours;
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;
use zbus::Connection;

pub const BUS_NAME: &str = "org.fedoraproject.FirewallD1";
/// The interface of a zone's permanent settings.
pub const ZONE_SETTINGS: &str = "org.fedoraproject.FirewallD1.config.zone";

/// No call of ours may hang the engine; firewalld takes milliseconds, and seconds while reloading.
const TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum FirewalldError {
    #[error("firewalld does not answer: {0}")]
    Unreachable(zbus::Error),
    #[error("firewalld gave no answer within 10 s")]
    TimedOut,
    #[error("firewalld refused: {0}")]
    Refused(String),
}

#[zbus::proxy(
    interface = "org.fedoraproject.FirewallD1",
    default_service = "org.fedoraproject.FirewallD1",
    default_path = "/org/fedoraproject/FirewallD1"
)]
pub trait Main {
    #[zbus(name = "getDefaultZone")]
    fn default_zone(&self) -> zbus::Result<String>;
    #[zbus(property, name = "version")]
    fn version(&self) -> zbus::Result<String>;
    #[zbus(property, name = "state")]
    fn state(&self) -> zbus::Result<String>;
    #[zbus(signal, name = "Reloaded")]
    fn reloaded(&self) -> zbus::Result<()>;
}

#[zbus::proxy(
    interface = "org.fedoraproject.FirewallD1.zone",
    default_service = "org.fedoraproject.FirewallD1",
    default_path = "/org/fedoraproject/FirewallD1"
)]
trait Zone {
    #[zbus(name = "addRichRule")]
    fn add_rich_rule(&self, zone: &str, rule: &str, timeout: i32) -> zbus::Result<String>;
    #[zbus(name = "removeRichRule")]
    fn remove_rich_rule(&self, zone: &str, rule: &str) -> zbus::Result<String>;
    #[zbus(name = "queryRichRule")]
    fn query_rich_rule(&self, zone: &str, rule: &str) -> zbus::Result<bool>;
    #[zbus(name = "getRichRules")]
    fn rich_rules(&self, zone: &str) -> zbus::Result<Vec<String>>;
    #[zbus(name = "getZones")]
    fn zones(&self) -> zbus::Result<Vec<String>>;
    #[zbus(name = "getActiveZones")]
    fn active_zones(&self) -> zbus::Result<HashMap<String, HashMap<String, Vec<String>>>>;
}

#[zbus::proxy(
    interface = "org.fedoraproject.FirewallD1.config",
    default_service = "org.fedoraproject.FirewallD1",
    default_path = "/org/fedoraproject/FirewallD1/config"
)]
trait Config {
    #[zbus(name = "getZoneByName")]
    fn zone_by_name(&self, zone: &str) -> zbus::Result<zbus::OwnedObjectPath>;
}

#[zbus::proxy(
    interface = "org.fedoraproject.FirewallD1.config.zone",
    default_service = "org.fedoraproject.FirewallD1"
)]
trait ConfigZone {
    #[zbus(name = "queryRichRule")]
    fn query_rich_rule(&self, rule: &str) -> zbus::Result<bool>;
    #[zbus(name = "getRichRules")]
    fn rich_rules(&self) -> zbus::Result<Vec<String>>;
    #[zbus(name = "removeRichRule")]
    fn remove_rich_rule(&self, rule: &str) -> zbus::Result<()>;
}

/// firewalld, running.
#[derive(Clone)]
pub struct Firewalld {
    main: MainProxy<'static>,
    zone: ZoneProxy<'static>,
    connection: Connection,
    pub version: String,
}

impl Firewalld {
    /// firewalld, if it is running. It is never started by us: on a host without it, nothing that
    /// it would set up is wanted.
    ///
    /// # Errors
    /// When the bus fails, or firewalld has the name and does not answer.
    pub async fn running(connection: &Connection) -> Result<Option<Self>, FirewalldError> {
        let bus = zbus::fdo::DBusProxy::new(connection).await.map_err(unreachable)?;
        let name = zbus::names::BusName::try_from(BUS_NAME).map_err(unreachable)?;
        let running = within(async { Ok(bus.name_has_owner(name).await?) }).await?;
        if !running {
            return Ok(None);
        }
        let main = MainProxy::builder(connection)
            .cache_properties(zbus::proxy::CacheProperties::No)
            .build()
            .await
            .map_err(unreachable)?;
        let zone = ZoneProxy::builder(connection)
            .cache_properties(zbus::proxy::CacheProperties::No)
            .build()
            .await
            .map_err(unreachable)?;
        let version = within(main.version()).await?;
        Ok(Some(Self { main, zone, connection: connection.clone(), version }))
    }

    pub fn main(&self) -> &MainProxy<'static> {
        &self.main
    }

    /// The zone that packets from each source go through: a zone with the source in it wins over
    /// the zone of the interface, and the default zone takes the rest (firewalld.zones(5)).
    ///
    /// `interface_towards` names the interface that packets from an address come in by.
    ///
    /// # Errors
    /// When firewalld does not answer.
    pub async fn zones_for(
        &self,
        sources: &[Cidr],
        interface_towards: impl Fn(IpAddr) -> Option<String>,
    ) -> Result<Vec<(Cidr, String)>, FirewalldError> {
        let active = within(self.zone.active_zones()).await?;
        let default = within(self.main.default_zone()).await?;
        Ok(sources
            .iter()
            .map(|source| {
                let interface = interface_towards(source.address());
                let zone = zone_of(&active, *source, interface.as_deref()).unwrap_or(&default);
                (*source, zone.to_owned())
            })
            .collect())
    }

    /// Adds a rule to the runtime configuration. A rule that is there already is a success.
    ///
    /// A rule that firewalld loses by a reload leaves its timeout behind, which later takes away the next rule that reads
    /// the same (firewall/server/firewalld.py: `removeRichRule` forgets a timeout only when there was a rule, and
    /// `addRichRule` loses sight of the old one). So a rule with a timeout is added, removed and added;
    /// for those milliseconds it has none, and ends by the ledger, the dead man and the fence alone.
    ///
    /// # Errors
    /// When firewalld refuses or does not answer.
    pub async fn add(
        &self,
        zone: &str,
        rule: &str,
        timeout: Option<Duration>,
    ) -> Result<(), FirewalldError> {
        let seconds = timeout
            .map_or(0, |timeout| i32::try_from(timeout.as_secs().max(1)).unwrap_or(i32::MAX));
        if seconds > 0 {
            self.add_for(zone, rule, 0).await?;
            absent_is_fine(within(self.zone.remove_rich_rule(zone, rule)).await)?;
        }
        self.add_for(zone, rule, seconds).await
    }

    async fn add_for(&self, zone: &str, rule: &str, seconds: i32) -> Result<(), FirewalldError> {
        match within(self.zone.add_rich_rule(zone, rule, seconds)).await {
            Err(FirewalldError::Refused(text)) if text.starts_with("ALREADY_ENABLED") => Ok(()),
            other => other.map(drop),
        }
    }

    /// Removes a rule, from the permanent configuration too if somebody has put it there. One that
    /// is not there, or whose zone is not, is a success.
    ///
    /// # Errors
    /// When firewalld refuses or does not answer.
    pub async fn remove(&self, zone: &str, rule: &str) -> Result<(), FirewalldError> {
        let removed = absent_is_fine(within(self.zone.remove_rich_rule(zone, rule)).await);
        self.forget_permanent(zone, rule).await?;
        removed
    }

    /// Takes a rule out of the permanent configuration; whether it was there.
    ///
    /// # Errors
    /// When firewalld refuses or does not answer.
    pub async fn forget_permanent(&self, zone: &str, rule: &str) -> Result<bool, FirewalldError> {
        let Some(settings) = self.permanent(zone).await? else { return Ok(false) };
        if !within(settings.query_rich_rule(rule)).await? {
            return Ok(false);
        }
        absent_is_fine(within(settings.remove_rich_rule(rule)).await)?;
        Ok(true)
    }

    /// Where the rule still is: `runtime`, `permanent`, or nowhere.
    ///
    /// # Errors
    /// When firewalld does not answer.
    pub async fn find(
        &self,
        zone: &str,
        rule: &str,
    ) -> Result<Option<&'static str>, FirewalldError> {
        match within(self.zone.query_rich_rule(zone, rule)).await {
            Ok(true) => return Ok(Some("the runtime configuration")),
            Ok(false) => {}
            Err(FirewalldError::Refused(text)) if text.starts_with("INVALID_ZONE") => {}
            Err(error) => return Err(error),
        }
        // An administrator's --runtime-to-permanent would have kept it for ever (firewalld#271).
        let Some(settings) = self.permanent(zone).await? else { return Ok(None) };
        let kept = within(settings.query_rich_rule(rule)).await?;
        Ok(kept.then_some("the permanent configuration"))
    }

    /// Every rule that carries our mark, with its zone, in the runtime or the permanent settings.
    ///
    /// # Errors
    /// When firewalld does not answer.
    pub async fn all_of_ours(&self) -> Result<Vec<(String, String)>, FirewalldError> {
        let mut found = Vec::new();
        for zone in within(self.zone.zones()).await? {
            let mut rules = within(self.zone.rich_rules(&zone)).await?;
            if let Some(settings) = self.permanent(&zone).await? {
                rules.extend(within(settings.rich_rules()).await?);
            }
            rules.retain(|rule| is_ours(rule));
            rules.sort();
            rules.dedup();
            found.extend(rules.into_iter().map(|rule| (zone.clone(), rule)));
        }
        Ok(found)
    }

    /// The permanent settings of a zone, if it has any.
    async fn permanent(
        &self,
        zone: &str,
    ) -> Result<Option<ConfigZoneProxy<'static>>, FirewalldError> {
        let config = ConfigProxy::new(&self.connection).await.map_err(unreachable)?;
        let path = match within(config.zone_by_name(zone)).await {
            Ok(path) => path,
            Err(FirewalldError::Refused(text)) if text.starts_with("INVALID_ZONE") => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let zone = ConfigZoneProxy::builder(&self.connection)
            .path(path)
            .cache_properties(zbus::proxy::CacheProperties::No)
            .build()
            .await
            .map_err(unreachable)?;
        Ok(Some(zone))
    }
}

fn absent_is_fine<T>(removed: Result<T, FirewalldError>) -> Result<(), FirewalldError> {
    match removed {
        Err(FirewalldError::Refused(text))
            if text.starts_with("NOT_ENABLED") || text.starts_with("INVALID_ZONE") =>
        {
            Ok(())
        }
        other => other.map(drop),
    }
}

/// The active zone that a source or an interface belongs to.
fn zone_of<'a>(
    active: &'a HashMap<String, HashMap<String, Vec<String>>>,
    source: Cidr,
    interface: Option<&str>,
) -> Option<&'a str> {
    let with = |key: &'static str, wanted: &dyn Fn(&str) -> bool| {
        active
            .iter()
            .find(|(_, parts)| parts.get(key).is_some_and(|list| list.iter().any(|s| wanted(s))))
            .map(|(zone, _)| zone.as_str())
    };
    let holds_source =
        |text: &str| text.parse::<Cidr>().is_ok_and(|cidr| cidr.contains(source.address()));
    with("sources", &holds_source)
        .or_else(|| interface.and_then(|name| with("interfaces", &|text: &str| text == name)))
}

fn unreachable(error: zbus::Error) -> FirewalldError {
    FirewalldError::Unreachable(error)
}

async fn within<T>(call: impl Future<Output = zbus::Result<T>>) -> Result<T, FirewalldError> {
    match tokio::time::timeout(TIMEOUT, call).await {
        Err(_) => Err(FirewalldError::TimedOut),
        Ok(Ok(value)) => Ok(value),
        // firewalld's exceptions carry `CODE: detail` as their text.
        Ok(Err(zbus::Error::MethodError(_, Some(text), _))) => Err(FirewalldError::Refused(text)),
        Ok(Err(error)) => Err(FirewalldError::Unreachable(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_of_the_source_wins_over_the_zone_of_the_interface() {
        let zone =
            |key: &str, value: &str| HashMap::from([(key.to_owned(), vec![value.to_owned()])]);
        let active = HashMap::from([
            ("work".to_owned(), zone("sources", "10.0.0.0/8")),
            ("dmz".to_owned(), zone("interfaces", "eth0")),
        ]);
        let peer: Cidr = "10.1.2.3".parse().unwrap();
        assert_eq!(zone_of(&active, peer, Some("eth0")), Some("work"));
        let other: Cidr = "192.0.2.1".parse().unwrap();
        assert_eq!(zone_of(&active, other, Some("eth0")), Some("dmz"));
        assert_eq!(zone_of(&active, other, Some("eth1")), None);
    }
}
