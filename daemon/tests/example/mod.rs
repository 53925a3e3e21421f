//! A session as the engine's tests have it.

use godebug_api::{Cidr, Deadline, Login, Mode};
use godebug_core::ledger::Opened;

pub(crate) fn opened() -> Opened {
    Opened {
        id: "0000000a".parse().unwrap(),
        unit: "shop".parse().unwrap(),
        target: None,
        invocation: None,
        pid: 77.try_into().unwrap(),
        start_ticks: 5,
        mode: Mode::Modify,
        uid: 0,
        user: "root".to_owned(),
        absence: godebug_api::Absence::default(),
        held_by: None,
        reason: None,
        sources: vec![Cidr::LOOPBACK_4],
        port: Some(2345.try_into().unwrap()),
        endpoint_host: None,
        opened_at: "2026-01-01T00:00:00Z".to_owned(),
        ttl_seconds: 60,
        at_most_until: Deadline { wall_ms: 9, boot_ms: 9 },
        debugger: "/usr/bin/dlv".to_owned(),
        go_version: "go1.24".to_owned(),
        watchdog_usec: None,
        target_is_starting: false,
        freeze_forecast_ms: None,
        pause: None,
        rule: None,
        program: None,
        login: Login::default(),
        approvals: Vec::new(),
        exec: None,
        dump: None,
        break_glass: false,
    }
}
