//! What must be in no log: keys, tickets, and the values that the service works with.

use anyhow::{Result, ensure};
use godebug_tests::{Host, scenario::Scenario};

use crate::support::{Laptop, SOON, Session, is_answered, leaves_nothing, line_of, order};

pub(crate) const ALL: &[Scenario] =
    &[Scenario::new("nothing_secret_is_in_any_log_or_command_line", nothing_secret)];

/// What priceOf works with, and what only memory and the client may have of it.
const MARK: &str = "CUSTOMER-3/3";

fn nothing_secret(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let session = Session::for_laptop(host, "myapp", "60s")?;
        let ticket = session.ticket(host)?;
        let arguments = host.ok(
            "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n' || true",
        )?;
        let line = line_of("return finish(label")?;
        let laptop = Laptop::connect(host, &session)?;
        let steps = format!(
            "break main.go:{line}\ncontinue\nargs\nlocals\nprint label\nprint \"marked-\" + \"value\"\nclearall\nexit -c\n"
        );
        let mut dlv = laptop.dlv_connect(&steps)?;
        dlv.dlv.wait_for_line("Breakpoint 1 set", SOON)?;
        // dlv goes on with the program a moment later; whoever comes then meets the breakpoint.
        host.wait_until("dlv has shown it", SOON, || {
            is_answered(order(host, 8080)?)?;
            Ok(!dlv.dlv.is_running()?)
        })?;
        let shown = dlv.dlv.wait(SOON)?;
        ensure!(shown.stdout.contains(MARK), "the client itself was not shown the value: {shown}");
        drop(laptop);
        session.stop(host)?;
        let snapshot = format!("godebugctl snapshot myapp --at main.go:{line} --timeout 10s");
        let mut taken = host.spawn(&snapshot)?;
        host.wait_until("a snapshot is shown", SOON, || {
            is_answered(order(host, 8080)?)?;
            Ok(!taken.is_running()?)
        })?;
        let taken = taken.wait(SOON)?.exits(0)?;
        ensure!(taken.stdout.contains(MARK), "the snapshot does not show the value: {taken}");
        let export = format!("godebugctl audit export {} --format json", session.id);
        let logs = [
            ("the journal", host.ok("journalctl --no-pager -o export -t godebugd -t godebug-revoke -t godebug-gateway -t godebug-dlvctl -t godebug-image -t dlv")?),
            ("the audit log", host.ok("cat /var/log/godebug/audit.jsonl*")?),
            ("the transcripts", host.ok("cat /var/log/godebug/sessions/*")?),
            ("the checkpoints", host.ok("cat /var/lib/godebug/checkpoints.jsonl")?),
            ("the export", host.ok(&export)?),
            ("command lines and environments", arguments),
        ];
        for (place, text) in &logs {
            ensure!(!text.contains("PRIVATE KEY"), "a key is in {place}");
            for line in
                ticket.lines().filter(|line| line.len() > 40 && !line.contains("CERTIFICATE"))
            {
                let certificate = text.contains(line) && *place == "the export";
                ensure!(
                    !text.contains(line) || certificate,
                    "a line of the ticket is in {place}: {line}"
                );
            }
            for value in [MARK, "marked-value"] {
                ensure!(!text.contains(value), "{value} is in {place}");
            }
        }
        Ok(())
    })
}
