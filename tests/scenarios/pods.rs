//! A pod as Kubernetes' kubelet has it made: by containerd, over its runtime interface, in systemd's control groups.

use anyhow::{Context, Result, ensure};
use godebug_tests::{Host, scenario::Scenario};

use crate::kinds::looked_into;
use crate::snapshot::read_while_it_stands;
use crate::support::{SOON, leaves_nothing, order, refused};

pub(crate) const ALL: &[Scenario] =
    &[Scenario::new("pod_of_containerd_is_debugged_by_its_name", pod).with_engines()];

/// What an administrator of Kubernetes sets; `native` needs no file system of its own.
const CONFIGURATION: &str = r#"
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/shop:latest"
  restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "native"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
  SystemdCgroup = true
  BinaryName = "/usr/local/bin/runc-without-limits"
"#;

/// runc, on a host whose control groups have no controllers: nothing is left of the limits that containerd sets.
const RUNC: &str = r#"#!/usr/bin/python3
import json, os, sys
if "--bundle" in sys.argv:
    path = os.path.join(sys.argv[sys.argv.index("--bundle") + 1], "config.json")
    with open(path) as file:
        config = json.load(file)
    config["linux"].pop("resources", None)
    with open(path, "w") as file:
        json.dump(config, file)
os.execv("/usr/sbin/runc", ["runc", *sys.argv[1:]])
"#;

/// The three calls by which the kubelet starts a pod with one container (k8s.io/cri-api, runtime/v1/api.proto). A field
/// is its number and a value.
const KUBELET: &str = r#"
import grpc, sys
def number(value):
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])
def message(*fields):
    out = b""
    for field, value in fields:
        if isinstance(value, int):
            out += number(field << 3) + number(value)
        else:
            value = value if isinstance(value, bytes) else value.encode()
            out += number(field << 3 | 2) + number(len(value)) + value
    return out
def first_text(answer):
    return answer[2:2 + answer[1]].decode()
channel = grpc.insecure_channel("unix:///run/containerd/containerd.sock")
def call(name, *fields):
    return channel.unary_unary("/runtime.v1.RuntimeService/" + name)(message(*fields), timeout=60)
of_node = message((1, message((1, 2))))
uid = "0f0e0d0c"
slice = "kubepods-besteffort-pod" + uid + ".slice"
pod = message((1, message((1, "web-7"), (2, uid), (3, "shop"))), (8, message((1, slice), (2, of_node))))
sandbox = first_text(call("RunPodSandbox", (1, pod)))
# Network and process numbers of the node's, and of the pod's: 3 is the second choice.
linux = message((2, message((3, message((1, 2), (2, 1))))))
web = message((1, message((1, "web"))), (2, message((1, "localhost/shop:latest"))),
              (3, "/shop"), (4, "-listen"), (4, "127.0.0.1:8501"), (15, linux))
container = first_text(call("CreateContainer", (1, sandbox), (2, web), (3, pod)))
call("StartContainer", (1, container))
print(container)
"#;

fn pod(host: &Host) -> Result<()> {
    host.ok(
        "ldconfig && mount -o remount,rw /proc/sys && mkdir -p /tmp/root /etc/containerd && \
         cp /opt/samples/shop /tmp/root/ && \
         printf '[storage]\\ndriver=\"vfs\"\\nrunroot=\"/run/containers/storage\"\\n\
         graphroot=\"/var/lib/containers/storage\"\\n' >/etc/containers/storage.conf && \
         tar -C /tmp/root -c . | podman import --change 'CMD [\"/shop\",\"-listen\",\"127.0.0.1:8502\"]' - \
         shop:latest",
    )?;
    host.write_file("/etc/containerd/config.toml", CONFIGURATION)?;
    host.write_file("/root/kubelet.py", KUBELET)?;
    host.write_file("/usr/local/bin/runc-without-limits", RUNC)?;
    host.ok("chmod 755 /usr/local/bin/runc-without-limits")?;
    host.ok("systemd-run --quiet --unit=containerd-here --property=Delegate=yes containerd")?;
    host.wait_until("containerd answers", SOON, || Ok(host.run("ctr version")?.success()))?;
    host.ok(
        "podman save --format docker-archive shop:latest | ctr --namespace k8s.io images import --snapshotter native -",
    )?;
    let id = host.ok("python3 /root/kubelet.py")?;
    let unit = format!("cri-containerd-{}.scope", id.trim());
    let url = "http://127.0.0.1:8501/healthz";
    host.wait_until("it serves", SOON, || Ok(host.http_from_host(url).is_ok()))?;
    for named in ["container:shop/web-7/web", "container:web", &format!("container:{}", &id[..13])]
    {
        leaves_nothing(host, &[&unit], |_| {
            looked_into(host, named, "", || order(host, 8501))?;
            read_while_it_stands(host, named, 8501)
        })
        .with_context(|| format!("debugging {named}"))?;
    }
    let none = host.run("godebugctl --json attach container:nobody --detach")?;
    let told = refused(none, 4, "target")?;
    ensure!(told.contains("shop/web-7/web"), "it does not name what runs: {told}");
    Ok(())
}
