//! Containers by name: what Docker, Podman, containerd and CRI-O have written down of those that run, and the
//! control group of each. No engine is asked: their files are root's, and are there when an engine hangs.

use crate::paths;
use godebug_api::{ContainerName, Refusal, TargetName};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// No file of an engine is longer, in bytes.
const LONGEST: u64 = 8 * 1024 * 1024;
/// More containers, and more control groups, are not looked at.
const MOST_CONTAINERS: usize = 4096;
const MOST_GROUPS: usize = 65_536;
const ID_LENGTH: usize = 64;

/// The running container that is meant, by its full name, and its control group. Which others run is told
/// to root only: an engine tells nobody else either.
///
/// # Errors
/// When there is none, or several.
pub(super) fn find(wanted: &ContainerName, asker: u32) -> Result<(TargetName, String), Refusal> {
    find_in(Path::new("/"), wanted).map_err(|refusal| match asker {
        0 => refusal,
        _ => Refusal {
            remedy: "name it in full; its engine tells an administrator which run".to_owned(),
            ..refusal
        },
    })
}

/// The same below another root.
fn find_in(root: &Path, wanted: &ContainerName) -> Result<(TargetName, String), Refusal> {
    let known = known(root);
    let groups = groups(&root.join(paths::CGROUP.trim_start_matches('/')));
    let running: Vec<(&String, &String, &String)> = groups
        .iter()
        .filter_map(|(id, group)| known.get(id).map(|name| (id, name, group)))
        .collect();
    let meant: Vec<_> =
        running.iter().filter(|(id, name, _)| means(wanted.as_str(), id, name)).collect();
    match meant.as_slice() {
        [(_, name, group)] => {
            let name: ContainerName = name.parse().map_err(|error: godebug_api::WordError| {
                Refusal::target(error.to_string(), "name it by its ID")
            })?;
            Ok((TargetName::Container(name), (*group).clone()))
        }
        [] => Err(none(wanted, &running)),
        several => Err(Refusal::target(
            format!("\"{}\" may be one of several containers", wanted.as_str()),
            format!("name it in full, or by its ID: {}", listed(several.iter().copied())),
        )),
    }
}

fn none(wanted: &ContainerName, running: &[(&String, &String, &String)]) -> Refusal {
    let remedy = if running.is_empty() {
        "no container of Docker, Podman, containerd or CRI-O runs here; one that is a unit can be named as such"
            .to_owned()
    } else {
        format!("those that run are {}", listed(running.iter()))
    };
    Refusal::target(format!("no container \"{}\" runs on this host", wanted.as_str()), remedy)
}

/// At most ten, with the beginning of their IDs.
fn listed<'a>(all: impl Iterator<Item = &'a (&'a String, &'a String, &'a String)>) -> String {
    let names: Vec<String> =
        all.take(10).map(|(id, name, _)| format!("{name} ({})", &id[..12])).collect();
    names.join(", ")
}

/// Whether somebody who says `wanted` means this container: its name, the end of its name after a slash, or
/// at least twelve digits of its ID.
fn means(wanted: &str, id: &str, name: &str) -> bool {
    let ends = name.strip_suffix(wanted).is_some_and(|rest| rest.is_empty() || rest.ends_with('/'));
    ends || (wanted.len() >= 12 && id.starts_with(wanted))
}

/// Names by ID, of all engines. A container that two know is one, by the name of the first.
fn known(root: &Path) -> BTreeMap<String, String> {
    let mut known = BTreeMap::new();
    for (id, name) in docker(root).chain(podman(root)).chain(bundles(root)).take(MOST_CONTAINERS) {
        if is_id(&id) {
            known.entry(id).or_insert(name);
        }
    }
    known
}

fn is_id(text: &str) -> bool {
    text.len() == ID_LENGTH
        && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn docker(root: &Path) -> impl Iterator<Item = (String, String)> + use<> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Container {
        #[serde(rename = "ID")]
        id: String,
        name: String,
    }
    let settings: Option<Value> = document(&root.join("etc/docker/daemon.json"));
    let folder = settings.as_ref().and_then(|it| it["data-root"].as_str());
    let folder = below(root, folder.unwrap_or("/var/lib/docker")).join("containers");
    entries(&folder).into_iter().filter_map(|folder| {
        let container: Container = document(&folder.join("config.v2.json"))?;
        Some((container.id, container.name.trim_start_matches('/').to_owned()))
    })
}

/// What Podman's storage has, whatever its driver.
fn podman(root: &Path) -> impl Iterator<Item = (String, String)> + use<> {
    #[derive(Deserialize)]
    struct Container {
        id: String,
        #[serde(default)]
        names: Vec<String>,
    }
    let settings = text(&root.join("etc/containers/storage.conf")).unwrap_or_default();
    let folder = toml::from_str::<toml::Table>(&settings).ok();
    let folder =
        folder.as_ref().and_then(|it| it.get("storage")?.as_table()?.get("graphroot")?.as_str());
    let folder = below(root, folder.unwrap_or("/var/lib/containers/storage"));
    let stores = entries(&folder).into_iter().filter(|store| {
        store.file_name().is_some_and(|name| name.as_encoded_bytes().ends_with(b"-containers"))
    });
    let files = ["containers.json", "volatile-containers.json"];
    let lists = stores.flat_map(move |store| files.map(|file| store.join(file)));
    let all = lists.filter_map(|file| document::<Vec<Container>>(&file)).flatten();
    all.filter_map(|container| Some((container.id, container.names.into_iter().next()?)))
}

/// What is annotated to the bundles of containerd and CRI-O: Kubernetes' names, or nerdctl's.
fn bundles(root: &Path) -> impl Iterator<Item = (String, String)> + use<> {
    let tasks = ["run/containerd", "run/k3s/containerd"]
        .map(|run| root.join(run).join("io.containerd.runtime.v2.task"));
    let containerd = tasks
        .into_iter()
        .flat_map(|tasks| entries(&tasks))
        .flat_map(|namespace| entries(&namespace))
        .map(|bundle| (bundle.join("config.json"), bundle));
    let crio = entries(&root.join("run/containers/storage/overlay-containers"))
        .into_iter()
        .map(|bundle| (bundle.join("userdata/config.json"), bundle));
    containerd.chain(crio).filter_map(|(file, bundle)| {
        let id = bundle.file_name()?.to_str()?.to_owned();
        let document: Value = document(&file)?;
        Some((id, annotated(&document["annotations"])?))
    })
}

fn annotated(annotations: &Value) -> Option<String> {
    let of = |keys: [&str; 2]| keys.iter().find_map(|key| annotations[key].as_str());
    if of(["io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType"])
        == Some("sandbox")
    {
        return None;
    }
    let name = of(["io.kubernetes.cri.container-name", "io.kubernetes.container.name"]);
    let Some(name) = name else { return annotations["nerdctl/name"].as_str().map(str::to_owned) };
    let pod = of(["io.kubernetes.cri.sandbox-name", "io.kubernetes.pod.name"])?;
    let namespace = of(["io.kubernetes.cri.sandbox-namespace", "io.kubernetes.pod.namespace"])?;
    Some(format!("{namespace}/{pod}/{name}"))
}

/// The control groups that have the ID of a container in their name, with that ID; the topmost of each.
/// What only watches one (conmon) is in a group of its own, which is left out. So is every group that is not
/// root's: a user can call one below their own as they like, but cannot make it root's.
fn groups(top: &Path) -> BTreeMap<String, String> {
    let owner_of = |path: &Path| std::fs::symlink_metadata(path).map(|group| group.uid()).ok();
    let root = owner_of(top);
    let mut found = BTreeMap::new();
    let mut level = vec![top.to_owned()];
    let mut looked_at = 0;
    while !level.is_empty() {
        let mut next = Vec::new();
        for group in level.iter().flat_map(|group| entries(group)) {
            looked_at += 1;
            if looked_at > MOST_GROUPS {
                return found;
            }
            let name = group.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            match id_in(name) {
                Some(id)
                    if !name.contains("conmon")
                        && !found.contains_key(id)
                        && owner_of(&group) == root =>
                {
                    let path = group.strip_prefix(top).ok().and_then(Path::to_str);
                    path.map(|path| found.insert(id.to_owned(), format!("/{path}")));
                }
                _ => next.push(group),
            }
        }
        level = next;
    }
    found
}

/// `docker-ID.scope`, `libpod-ID.scope`, `libpod-payload-ID`, `cri-containerd-ID.scope`, `crio-ID.scope`, `ID`.
fn id_in(name: &str) -> Option<&str> {
    let stem = name.strip_suffix(".scope").unwrap_or(name);
    let id = stem.rsplit('-').next()?;
    is_id(id).then_some(id)
}

/// The folders in a folder; none if it cannot be read.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let all = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let folders = all.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.take(MOST_GROUPS).map(|entry| entry.path()).collect()
}

fn below(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

fn document<T: serde::de::DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_str(&text(path)?).ok()
}

fn text(path: &Path) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.take(LONGEST).read_to_string(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEB: &str = "0a00000000000000000000000000000000000000000000000000000000000001";
    const DB: &str = "0b00000000000000000000000000000000000000000000000000000000000002";
    const APP: &str = "0c00000000000000000000000000000000000000000000000000000000000003";
    const PAUSE: &str = "0d00000000000000000000000000000000000000000000000000000000000004";
    const OLD: &str = "0e00000000000000000000000000000000000000000000000000000000000005";
    const CRIO: &str = "0f00000000000000000000000000000000000000000000000000000000000006";

    struct Host(tempfile::TempDir);

    impl Host {
        /// One with a container of each engine.
        fn new() -> Self {
            let host = Self(tempfile::tempdir().unwrap());
            let docker = format!("var/lib/docker/containers/{WEB}/config.v2.json");
            host.file(&docker, &format!(r#"{{"ID":"{WEB}","Name":"/web","State":{{"Pid":7}}}}"#));
            let old = format!("var/lib/docker/containers/{OLD}/config.v2.json");
            host.file(&old, &format!(r#"{{"ID":"{OLD}","Name":"/old"}}"#));
            host.file(
                "var/lib/containers/storage/vfs-containers/containers.json",
                &format!(r#"[{{"id":"{DB}","names":["db"],"metadata":"{{}}"}}]"#),
            );
            let task = "run/containerd/io.containerd.runtime.v2.task/k8s.io";
            host.file(
                &format!("{task}/{APP}/config.json"),
                r#"{"annotations":{"io.kubernetes.cri.container-type":"container",
                    "io.kubernetes.cri.container-name":"web","io.kubernetes.cri.sandbox-name":"shop-7d",
                    "io.kubernetes.cri.sandbox-namespace":"prod"}}"#,
            );
            host.file(
                &format!("{task}/{PAUSE}/config.json"),
                r#"{"annotations":{"io.kubernetes.cri.container-type":"sandbox",
                    "io.kubernetes.cri.sandbox-name":"shop-7d","io.kubernetes.cri.sandbox-namespace":"prod"}}"#,
            );
            host.file(
                &format!("run/containers/storage/overlay-containers/{CRIO}/userdata/config.json"),
                r#"{"annotations":{"io.kubernetes.cri-o.ContainerType":"container","io.kubernetes.container.name":"api",
                    "io.kubernetes.pod.name":"api-0","io.kubernetes.pod.namespace":"prod"}}"#,
            );
            for group in [
                format!("system.slice/docker-{WEB}.scope/init"),
                format!("machine.slice/libpod-conmon-{DB}.scope"),
                format!("machine.slice/libpod-{DB}.scope/container"),
                format!("kubepods.slice/kubepods-pod1.slice/cri-containerd-{APP}.scope"),
                format!("kubepods.slice/kubepods-pod1.slice/cri-containerd-{PAUSE}.scope"),
                format!("kubepods.slice/kubepods-pod2.slice/crio-{CRIO}.scope"),
            ] {
                std::fs::create_dir_all(host.0.path().join("sys/fs/cgroup").join(group)).unwrap();
            }
            host
        }

        fn file(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }

        fn find(&self, name: &str) -> Result<(String, String), String> {
            find_in(self.0.path(), &name.parse().unwrap())
                .map(|(name, group)| (name.to_string(), group))
                .map_err(|refusal| format!("{}; {}", refusal.message, refusal.remedy))
        }
    }

    #[test]
    fn each_engines_containers_are_found_by_name_and_by_id() {
        let host = Host::new();
        let docker = ("container:web".to_owned(), format!("/system.slice/docker-{WEB}.scope"));
        assert_eq!(host.find(&WEB[..12]).unwrap(), docker);
        assert_eq!(
            host.find("db").unwrap(),
            ("container:db".to_owned(), format!("/machine.slice/libpod-{DB}.scope"))
        );
        let app = format!("/kubepods.slice/kubepods-pod1.slice/cri-containerd-{APP}.scope");
        for name in ["shop-7d/web", "prod/shop-7d/web"] {
            let full = "container:prod/shop-7d/web".to_owned();
            assert_eq!(host.find(name).unwrap(), (full, app.clone()));
        }
        assert_eq!(host.find("api").unwrap().0, "container:prod/api-0/api");
    }

    #[test]
    fn what_is_ambiguous_not_there_or_not_running_is_told() {
        let host = Host::new();
        let told = host.find("web").unwrap_err();
        assert!(told.contains("web (0a0000000000), prod/shop-7d/web (0c0000000000)"), "{told}");
        for gone in ["old", "eb", &OLD[..12], &WEB[..11], "shop-7d"] {
            let told = host.find(gone).unwrap_err();
            assert!(told.contains("runs on this host; those that run are"), "{told}");
        }
        let none = find_in(Path::new("/nonexistent"), &"web".parse().unwrap()).unwrap_err();
        assert!(none.remedy.contains("no container of Docker"), "{none:?}");
    }

    #[test]
    fn other_folders_are_followed_and_broken_files_passed_over() {
        let host = Host::new();
        host.file("etc/docker/daemon.json", r#"{"data-root":"/srv/docker"}"#);
        assert!(host.find(&WEB[..12]).is_err());
        let place = format!("srv/docker/containers/{WEB}/config.v2.json");
        host.file(&place, &format!(r#"{{"ID":"{WEB}","Name":"/moved"}}"#));
        assert_eq!(host.find("moved").unwrap().0, "container:moved");
        host.file(&place, "{");
        assert!(host.find("moved").is_err());
        host.file("etc/containers/storage.conf", "[storage]\ngraphroot = \"/srv/pods\"\n");
        assert!(host.find("db").is_err());
        let list = format!(r#"[{{"id":"{DB}","names":["db2"]}}]"#);
        host.file("srv/pods/overlay-containers/volatile-containers.json", &list);
        assert_eq!(host.find("db2").unwrap().0, "container:db2");
    }

    #[test]
    fn a_group_that_is_not_roots_is_no_containers() {
        let host = Host::new();
        let top = host.0.path().join("sys/fs/cgroup");
        let forged = top.join(format!("a.slice/{APP}"));
        std::fs::create_dir_all(&forged).unwrap();
        // Nearer to the top than the real one: as root's it would be taken.
        assert_eq!(groups(&top)[APP], format!("/a.slice/{APP}"));
        if std::os::unix::fs::chown(&forged, Some(65_534), None).is_err() {
            return;
        }
        assert!(groups(&top)[APP].starts_with("/kubepods.slice/"));
    }

    #[test]
    fn names_that_could_not_be_typed_are_refused() {
        let host = Host::new();
        let place = format!("var/lib/docker/containers/{WEB}/config.v2.json");
        host.file(&place, &format!(r#"{{"ID":"{WEB}","Name":"/a\u001b[2Jb"}}"#));
        let told = host.find(&WEB[..12]).unwrap_err();
        assert!(told.contains("is no name of a container") && !told.contains('\u{1b}'), "{told}");
    }
}
