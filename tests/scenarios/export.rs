//! Records handed out: whole, signed, readable elsewhere, to those who may read them.

use anyhow::{Context, Result, ensure};
use godebug_tests::{Host, scenario::Scenario};
use serde_json::Value;

use crate::support::{Laptop, SOON, Session, leaves_nothing, refused};

pub(crate) const ALL: &[Scenario] =
    &[Scenario::new("exported_records_are_verified_on_another_machine", exported).on_newest()];

fn exported(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let laptop = host.laptop_address();
        let options =
            format!("--ttl 60s --mode modify --reason 'OPS-17: orders are slow' --from {laptop}");
        let first = Session::open(host, "myapp", &options)?;
        {
            let laptop = Laptop::connect(host, &first)?;
            let commands = "break main.priceOf\nclearall\nexit -c\n";
            laptop.dlv_connect(commands)?.dlv.wait(SOON)?;
        }
        first.stop(host)?;
        // One of its records was rotated away meanwhile.
        host.ok("mv /var/log/godebug/audit.jsonl /var/log/godebug/audit.jsonl.1")?;
        let second = Session::open(host, "myapp", "--ttl 60s")?;
        second.stop(host)?;
        let ids = format!("{} {}", first.id, second.id);
        refused(
            host.run_as("alice", &format!("godebugctl --json audit export {ids}"))?,
            3,
            "refused",
        )?;
        refused(host.run("godebugctl --json audit export zzzzzzzz")?, 2, "usage")
            .context("no such")?;
        let key = host.ok("godebugctl audit key")?;
        let laptop = tempfile::tempdir().context("a folder on the laptop")?;
        let program = host.path("/usr/bin/godebugctl");
        for format in ["html", "json", "csv"] {
            let file = format!("/root/records.{format}");
            host.ok(&format!("godebugctl audit export {ids} --format {format} --output {file}"))?;
            ensure!(host.ok(&format!("stat -c %a {file}"))? == "600\n");
            let again = host.run(&format!("godebugctl audit export {ids} --output {file}"))?;
            ensure!(again.status == 2, "it has replaced a file: {again}");
            let text = host.read_file(&file)?;
            let here = laptop.path().join(format!("records.{format}"));
            std::fs::write(&here, &text)?;
            let verify = |words: &str| {
                host.laptop(&format!(
                    "{} --json audit verify {} {words}",
                    program.display(),
                    here.display()
                ))
            };
            let good = verify(&format!("--key {}", key.trim()))?.exits(0)?.json()?;
            ensure!(good[0]["intact"] == true && good[0]["key_is_known"] == true, "{good}");
            ensure!(good[0]["records"] == 6 && good[0]["host"] == "testhost", "{good}");
            ensure!(good[0]["transcript_lines"].as_u64().is_some_and(|lines| lines > 4), "{good}");
            for (from, to) in [("orders are slow", "orders are fast"), ("priceOf", "pr1ceOf")] {
                ensure!(text.contains(from), "{format} does not say {from}");
                std::fs::write(&here, text.replacen(from, to, 1))?;
                let changed = verify("")?;
                ensure!(changed.status == 1, "{format}: {from} became {to}: {changed}");
                let fault = &changed.json()?[0]["fault"];
                ensure!(fault.as_str().is_some_and(|it| !it.is_empty()), "{fault}");
            }
        }
        let page = host.read_file("/root/records.html")?;
        for part in ["Everything was taken back", "OPS-17: orders are slow", "breakpoint", "modify"]
        {
            ensure!(page.contains(part), "no {part} in the page");
        }
        sealed_anew(host, &second)
    })
}

/// A log that was sealed anew and then handed out with the right key: only what another host has kept
/// of it tells.
fn sealed_anew(host: &Host, session: &Session) -> Result<()> {
    host.ok("cp /var/lib/godebug/checkpoints.jsonl /root/elsewhere")?;
    let verify = "godebugctl --json audit verify /root/records.json --checkpoint /root/elsewhere";
    host.run(verify)?.exits(0)?;
    let bundle: Value = serde_json::from_str(&host.read_file("/root/records.json")?)?;
    let kept = &bundle["checkpoints"][0];
    ensure!(kept["log"] == "audit", "no checkpoint came along for {}: {bundle}", session.id);
    Ok(())
}
