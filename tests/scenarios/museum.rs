//! The museum: a program that holds a value of every kind and stands still by itself. What a debugger shows of it on an
//! image is what it shows on the process.

use anyhow::{Context, Result, ensure};
use godebug_tests::{Host, jsonrpc::JsonRpcClient};
use serde_json::{Value, json};
use std::net::TcpStream;

use crate::support::{Laptop, Session, leaves_nothing};

type Rpc = JsonRpcClient<TcpStream>;

/// What is in every goroutine of the museum and in its package, as one debugger shows it.
fn all_values(rpc: &mut Rpc) -> Result<Vec<(String, Value)>> {
    let load = json!({
        "FollowPointers": true, "MaxVariableRecurse": 3, "MaxStringLen": 300,
        "MaxArrayValues": 64, "MaxStructFields": -1,
    });
    let mut seen = Vec::new();
    let all = rpc.list_goroutines()?;
    for goroutine in all.as_array().context("no goroutines")? {
        let id = goroutine["id"].as_i64().context("a goroutine without a number")?;
        seen.push((format!("goroutine {id}"), goroutine["userCurrentLoc"]["function"].clone()));
        let begun_in = goroutine["startLoc"]["function"]["name"].as_str().unwrap_or_default();
        if !begun_in.starts_with("main.") {
            continue; // one of Go's own, with thousands of values
        }
        let stack = json!({"Id": id, "Depth": 50, "Full": true, "Cfg": load});
        let frames = rpc.call("Stacktrace", stack)?["Locations"].take();
        for (number, frame) in frames.as_array().context("no frames")?.iter().enumerate() {
            let function = frame["function"]["name"].as_str().unwrap_or("?");
            seen.push((format!("frame {number} of {id}, {function}"), frame.clone()));
        }
    }
    let package = json!({"Filter": "^main\\.", "Cfg": load});
    seen.push(("package".to_owned(), rpc.call("ListPackageVars", package)?));
    let types = rpc.call("ListTypes", json!({"Filter": "^main\\."}))?;
    seen.push(("types".to_owned(), types));
    Ok(seen)
}

/// `also` is shown beside what every build of the museum has.
pub(crate) fn same_values(host: &Host, program: &str, also: &[&str]) -> Result<()> {
    host.ok(&format!("systemd-run --quiet --unit=museum --property=User=shop {program}"))?;
    leaves_nothing(host, &["museum"], |_| {
        let session = Session::open(
            host,
            "museum",
            &format!("--mode observe --ttl 5m --max-pause 2s --from {}", host.laptop_address()),
        )?;
        let on_the_image = all_values(&mut Laptop::connect(host, &session)?.rpc()?)?;
        session.stop(host)?;
        let options = format!("--ttl 5m --pause-budget 5m --from {}", host.laptop_address());
        let session = Session::open(host, "museum", &options)?;
        let laptop = Laptop::connect(host, &session)?;
        let mut rpc: Rpc = laptop.rpc()?;
        rpc.command("halt")?;
        let on_the_process = all_values(&mut rpc)?;
        drop(rpc);
        session.stop(host)?;
        for ((what, image), (whose, process)) in on_the_image.iter().zip(&on_the_process) {
            ensure!(what == whose, "{what} on the image, {whose} on the process");
            // Threads of Go's own may have moved.
            let is_ours = ["main.", "package", "types"].iter().any(|ours| what.contains(ours));
            ensure!(image == process || !is_ours, "{what}: {image}, on the process: {process}");
        }
        ensure!(on_the_image.len() == on_the_process.len(), "not the same goroutines");
        let all: String = on_the_image.iter().map(|(_, value)| value.to_string()).collect();
        let shown = ["grüße", "value 4", "main.pair[string,float64]", "in flight", "the first"];
        for shown in shown.iter().chain(&["closure"]).chain(also) {
            ensure!(all.contains(shown), "{shown} is not shown: {on_the_image:?}");
        }
        Ok(())
    })?;
    host.ok("systemctl stop museum").map(drop)
}
