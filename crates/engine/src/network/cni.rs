//! Networks of other people's plugins: the Container Network Interface, driver `cni`.
//!
//! ```text
//! docker network create -d cni -o conflist=<name or path> my-network
//! ```
//! A list of plugins is found in `/etc/cni/net.d` by its `name` (that of the network, if the option is missing), or where
//! the option says. For each container its plugins are run one after the other with `ADD`, each with the result of the
//! one before; at the end with `DEL` in the other order. What was run is kept in `<state>/cni/<container>@<network>.json`
//! from before the first `ADD` until after the last `DEL`, so that what a killed daemon has left is taken down as it was
//! put up, whatever has become of the list since.
//!
//! Plugins are programs of the host's administrator and run with the daemon's rights; who may make networks may choose
//! among the lists that are there. Published ports go to plugins that can have them (`portMappings`).

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use sampan_base::Class;
use sampan_base::files::{create_directories, read_limited, remove_if_exists, write_atomic_volatile};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::records::NetworkRecord;
use super::{Endpoint, ports};
use crate::Inner;
use crate::error::{EngineError, Result};
use crate::metadata::ContainerRecord;
use crate::spec::Publish;

/// Where lists of plugins are.
const LISTS: &str = "/etc/cni/net.d";
/// Where plugins are.
const PLUGINS: [&str; 2] = ["/opt/cni/bin", "/usr/lib/cni"];
/// The option that names a list or a file.
const OPTION_LIST: &str = "conflist";
/// The option that names further directories of plugins, separated by `:`.
const OPTION_PATH: &str = "path";
/// The longest list or result.
const MAX_BYTES: u64 = 1 << 20;
/// How many plugins a list may have.
const MAX_PLUGINS: usize = 32;
/// How long one plugin may take: some ask a DHCP server.
const PATIENCE: Duration = Duration::from_secs(60);
/// The versions of the specification whose results are understood.
const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// What was put up for one container.
#[derive(Serialize, Deserialize, Clone, Debug)]
struct Put {
    version: u32,
    container: String,
    network: String,
    interface: String,
    namespace: PathBuf,
    path: String,
    /// The plugins' configurations as they were given to them, without results.
    plugins: Vec<Value>,
    /// The last plugin's result; none: it has not come so far.
    result: Option<Value>,
    published: Vec<Publish>,
}

/// Whether a network that is to be made has a list of plugins that are there.
pub(super) fn check(inner: &Inner, network: &NetworkRecord) -> Result<()> {
    if network.driver != "cni" {
        return Ok(());
    }
    create_directories(&inner.config.state.join("cni"), 0o700).map_err(EngineError::file)?;
    let plugins = plugins(network, &[])?;
    for plugin in &plugins {
        find_plugin(plugin, &search_path(network))?;
    }
    Ok(())
}

fn search_path(network: &NetworkRecord) -> String {
    let own = network.options.get(OPTION_PATH).into_iter().map(String::as_str);
    own.chain(PLUGINS).collect::<Vec<_>>().join(":")
}

/// Puts a container into a network.
pub(super) fn attach(
    inner: &Inner,
    record: &ContainerRecord,
    network: &NetworkRecord,
    interface: &str,
) -> Result<Endpoint> {
    let wanted = ports::wanted(&record.spec, network)?;
    let mut mappings = Vec::new();
    for port in &wanted {
        let mapping = &port.mapping;
        if mapping.host_port == 0 {
            return Err(EngineError::Unsupported("a CNI network picks no ports: name the host's".to_owned()));
        }
        mappings.push(json!({
            "hostPort": mapping.host_port,
            "containerPort": mapping.container_port,
            "protocol": mapping.protocol.to_string(),
            "hostIP": if mapping.host_ip.is_unspecified() { String::new() } else { mapping.host_ip.to_string() },
        }));
    }
    let namespace = inner
        .net
        .namespace(&record.id)
        .map_err(|e| EngineError::layer(e.class(), "cannot name the network namespace")(e))?;
    let mut put = Put {
        version: 1,
        container: record.id.clone(),
        network: network.id.clone(),
        interface: interface.to_owned(),
        namespace,
        path: search_path(network),
        plugins: plugins(network, &mappings)?,
        result: None,
        published: record.spec.publish.clone(),
    };
    keep(inner, &put)?;
    let outcome = add_all(&mut put).and_then(|()| keep(inner, &put)).and_then(|()| endpoint(&put));
    if outcome.is_err() {
        take_down(inner, &put);
    }
    outcome
}

fn add_all(put: &mut Put) -> Result<()> {
    let mut result = None;
    for plugin in &put.plugins {
        result = Some(run(put, "ADD", plugin, result.as_ref())?);
    }
    put.result = result;
    Ok(())
}

/// Takes a container out of one network.
pub(super) fn detach(inner: &Inner, container: &str, network: &str) {
    if let Some(put) = read(&file(inner, container, network)) {
        take_down(inner, &put);
    }
}

/// Takes a container out of all networks.
pub(super) fn detach_all(inner: &Inner, container: &str) {
    for put in all(inner).iter().filter(|put| put.container == container) {
        take_down(inner, put);
    }
}

/// The endpoints of a container.
pub(super) fn find(inner: &Inner, container: &str) -> Vec<Endpoint> {
    let ours = all(inner).into_iter().filter(|put| put.container == container);
    ours.filter_map(|put| endpoint(&put).ok()).collect()
}

/// Takes down what belongs to no known container.
pub(super) fn reconcile(inner: &Inner, known: &BTreeSet<String>) {
    for put in all(inner).iter().filter(|put| !known.contains(&put.container)) {
        tracing::warn!(
            container = put.container,
            "taking down a CNI network that a container has left behind"
        );
        take_down(inner, put);
    }
}

/// Runs all plugins with `DEL`. What fails is told of, and the others are run all the same.
fn take_down(inner: &Inner, put: &Put) {
    for plugin in put.plugins.iter().rev() {
        if let Err(error) = run(put, "DEL", plugin, put.result.as_ref()) {
            tracing::warn!(
                container = put.container,
                error = sampan_base::chain(&error),
                "a CNI plugin failed"
            );
        }
    }
    if let Err(error) = remove_if_exists(&file(inner, &put.container, &put.network)) {
        tracing::warn!(
            container = put.container,
            error = sampan_base::chain(&error),
            "cannot forget a CNI network"
        );
    }
}

fn file(inner: &Inner, container: &str, network: &str) -> PathBuf {
    inner.config.state.join("cni").join(format!("{container}@{network}.json"))
}

fn keep(inner: &Inner, put: &Put) -> Result<()> {
    let bytes =
        serde_json::to_vec(put).map_err(EngineError::layer(Class::Internal, "cannot note a CNI network"))?;
    create_directories(&inner.config.state.join("cni"), 0o700).map_err(EngineError::file)?;
    write_atomic_volatile(&file(inner, &put.container, &put.network), &bytes, 0o600)
        .map_err(EngineError::file)
}

fn read(path: &Path) -> Option<Put> {
    let bytes = read_limited(path, 4 * MAX_BYTES).ok()?;
    serde_json::from_slice::<Put>(&bytes).ok().filter(|put| put.version == 1)
}

fn all(inner: &Inner) -> Vec<Put> {
    let entries = std::fs::read_dir(inner.config.state.join("cni")).into_iter().flatten().flatten();
    entries.filter_map(|entry| read(&entry.path())).collect()
}

/// The plugins' configurations, ready to be given to them.
fn plugins(network: &NetworkRecord, mappings: &[Value]) -> Result<Vec<Value>> {
    let list = find_list(network)?;
    let invalid =
        |text: &str| EngineError::Invalid(format!("the CNI list of network {}: {text}", network.name));
    let version = list.get("cniVersion").and_then(Value::as_str).unwrap_or("0.3.1").to_owned();
    if !VERSIONS.contains(&version.as_str()) {
        return Err(invalid(&format!(
            "version {version} is not supported: use one of {}",
            VERSIONS.join(", ")
        )));
    }
    let name = list.get("name").and_then(Value::as_str).unwrap_or(&network.name).to_owned();
    // A single plugin's configuration is a list of one.
    let single = || if list.get("type").is_some() { Some(vec![list.clone()]) } else { None };
    let plugins = list.get("plugins").and_then(Value::as_array).cloned().or_else(single);
    let plugins = plugins.ok_or_else(|| invalid("it has no plugins"))?;
    if plugins.is_empty() || plugins.len() > MAX_PLUGINS {
        return Err(invalid(&format!("it has {} plugins, of 1 to {MAX_PLUGINS}", plugins.len())));
    }
    let mut ready = Vec::new();
    for plugin in plugins {
        let Value::Object(mut plugin) = plugin else { return Err(invalid("a plugin is no object")) };
        plugin.insert("cniVersion".to_owned(), json!(version));
        plugin.insert("name".to_owned(), json!(name));
        let can = plugin.remove("capabilities");
        if can.and_then(|c| c.get("portMappings").and_then(Value::as_bool)) == Some(true)
            && !mappings.is_empty()
        {
            plugin.insert("runtimeConfig".to_owned(), json!({"portMappings": mappings}));
        }
        ready.push(Value::Object(plugin));
    }
    Ok(ready)
}

fn find_list(network: &NetworkRecord) -> Result<Value> {
    let wanted = network.options.get(OPTION_LIST).unwrap_or(&network.name);
    let parse = |path: &Path| -> Result<Value> {
        let bytes = read_limited(path, MAX_BYTES).map_err(EngineError::file)?;
        serde_json::from_slice(&bytes)
            .map_err(|e| EngineError::Invalid(format!("`{}` is no CNI list: {e}", path.display())))
    };
    if wanted.starts_with('/') {
        return parse(Path::new(wanted));
    }
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(LISTS).into_iter().flatten().flatten().map(|e| e.path()).collect();
    paths.sort();
    let mut lists = paths
        .iter()
        .filter(|path| {
            matches!(path.extension().and_then(|e| e.to_str()), Some("conflist" | "conf" | "json"))
        })
        .filter_map(|path| parse(path).ok());
    lists.find(|list| list.get("name").and_then(Value::as_str) == Some(wanted)).ok_or_else(|| {
        EngineError::Invalid(format!(
            "no CNI list called `{wanted}` is in {LISTS}: name one with -o conflist=…"
        ))
    })
}

fn find_plugin(plugin: &Value, path: &str) -> Result<PathBuf> {
    let kind = plugin.get("type").and_then(Value::as_str).unwrap_or_default();
    if kind.is_empty() || kind.contains('/') || kind.starts_with('.') {
        return Err(EngineError::Invalid(format!("`{kind}` is no name of a CNI plugin")));
    }
    let mut places = path.split(':').map(|directory| Path::new(directory).join(kind));
    places
        .find(|place| place.is_file())
        .ok_or_else(|| EngineError::Invalid(format!("CNI plugin `{kind}` is not in {path}: install it")))
}

/// Runs one plugin and returns what it answers.
fn run(put: &Put, verb: &str, plugin: &Value, before: Option<&Value>) -> Result<Value> {
    let program = find_plugin(plugin, &put.path)?;
    let mut config = plugin.clone();
    if let (Some(before), Some(config)) = (before, config.as_object_mut()) {
        config.insert("prevResult".to_owned(), before.clone());
    }
    let input = serde_json::to_vec(&config)
        .map_err(EngineError::layer(Class::Internal, "cannot encode a CNI configuration"))?;
    let doing = format!("CNI plugin `{}` failed to {verb}", program.display());
    let mut child = Command::new(&program)
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("CNI_COMMAND", verb)
        .env("CNI_CONTAINERID", &put.container)
        .env("CNI_NETNS", &put.namespace)
        .env("CNI_IFNAME", &put.interface)
        .env("CNI_PATH", &put.path)
        .env("CNI_ARGS", "IgnoreUnknown=1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(EngineError::io(doing.clone()))?;
    let output = converse(&mut child, &input);
    let output = match output {
        Ok(output) => output,
        Err(error) => {
            // Whatever became of the conversation, it must not stay.
            let _ = child.kill();
            let _ = child.wait();
            return Err(EngineError::io(doing)(error));
        }
    };
    let status = child.wait().map_err(EngineError::io(doing.clone()))?;
    let answer: Value = if output.iter().all(u8::is_ascii_whitespace) {
        Value::Null
    } else {
        serde_json::from_slice(&output).unwrap_or_else(|_| json!({"msg": String::from_utf8_lossy(&output)}))
    };
    if status.success() {
        return Ok(answer);
    }
    let said = |key: &str| answer.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let text = [said("msg"), said("details"), status.to_string()];
    let text = text.into_iter().filter(|t| !t.is_empty()).collect::<Vec<_>>().join(": ");
    Err(EngineError::layer(Class::Internal, doing)(text))
}

/// Gives a plugin its configuration and reads what it says, until it ends or has taken too long.
fn converse(child: &mut std::process::Child, input: &[u8]) -> std::io::Result<Vec<u8>> {
    let (Some(mut stdin), Some(mut stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(std::io::Error::other("it has no input or output"));
    };
    // A pipe holds more than most configurations; a plugin that does not read a longer one is waited for by nobody.
    rustix::fs::fcntl_setfl(&stdin, rustix::fs::OFlags::NONBLOCK)?;
    stdin.write_all(input)?;
    drop(stdin);
    let pid = i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| std::io::Error::other("no pid"))?;
    let ended = pidfd_open(pid, PidfdFlags::empty())?;
    let deadline = Instant::now() + PATIENCE;
    let mut output = Vec::new();
    let mut buffer = [0u8; 8192];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        let left = rustix::time::Timespec {
            tv_sec: left.as_secs().cast_signed(),
            tv_nsec: left.subsec_nanos().into(),
        };
        let mut waiting = [PollFd::new(&stdout, PollFlags::IN), PollFd::new(&ended, PollFlags::IN)];
        match poll(&mut waiting, Some(&left)) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let (readable, over) = (!waiting[0].revents().is_empty(), !waiting[1].revents().is_empty());
        if readable {
            let length = stdout.read(&mut buffer)?;
            if length == 0 {
                return Ok(output);
            }
            output.extend_from_slice(&buffer[..length]);
            if output.len() as u64 > MAX_BYTES {
                return Err(std::io::Error::other("it says too much"));
            }
        } else if over {
            // What it has started may still hold the pipe.
            return Ok(output);
        }
    }
}

/// What a result means for the container.
fn endpoint(put: &Put) -> Result<Endpoint> {
    let nothing = || EngineError::Invalid("the CNI plugins gave the container no IPv4 address".to_owned());
    let result = put.result.as_ref().ok_or_else(nothing)?;
    let list = |key: &str| result.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    let text =
        |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (mut v4, mut v6) = (None, None);
    for ip in list("ips") {
        let gateway: Option<IpAddr> = text(&ip, "gateway").parse().ok();
        match text(&ip, "address").parse() {
            Ok(IpNet::V4(net)) if v4.is_none() => v4 = Some((net, gateway)),
            Ok(IpNet::V6(net)) if v6.is_none() => v6 = Some((net, gateway)),
            _ => {}
        }
    }
    let (net, gateway) = v4.ok_or_else(nothing)?;
    let inside = list("interfaces")
        .into_iter()
        .find(|link| text(link, "name") == put.interface && !text(link, "sandbox").is_empty());
    Ok(Endpoint {
        network: put.network.clone(),
        id: sampan_base::Digest::of(format!("{}@{}", put.container, put.network).as_bytes()).hex().to_owned(),
        interface: put.interface.clone(),
        address: net.addr(),
        prefix: net.prefix_len(),
        gateway: match gateway {
            Some(IpAddr::V4(ip)) => ip,
            _ => std::net::Ipv4Addr::UNSPECIFIED,
        },
        v6: v6.as_ref().map(|(net, _)| (net.addr(), net.prefix_len())),
        gateway6: v6.and_then(|(_, gateway)| match gateway {
            Some(IpAddr::V6(ip)) => Some(ip),
            _ => None,
        }),
        mac: inside.map(|link| text(&link, "mac")).unwrap_or_default(),
        default_route: true,
        names: Vec::new(),
        published: put.published.clone(),
        namespace: put.namespace.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_becomes_an_endpoint() {
        let result = json!({
            "cniVersion": "1.0.0",
            "interfaces": [{"name":"cni0","mac":"aa:aa:aa:aa:aa:aa"},{"name":"eth0","mac":"02:00:00:00:00:05","sandbox":"/x"}],
            "ips": [{"address":"10.88.0.5/16","gateway":"10.88.0.1","interface":1},{"address":"fd00::5/64","gateway":"fd00::1"}],
        });
        let mut put = Put {
            version: 1,
            container: "c".into(),
            network: "n".into(),
            interface: "eth0".into(),
            namespace: "/ns".into(),
            path: String::new(),
            plugins: Vec::new(),
            result: Some(result),
            published: Vec::new(),
        };
        let found = endpoint(&put).unwrap();
        assert_eq!(
            (found.address.to_string(), found.prefix, found.gateway.to_string()),
            ("10.88.0.5".into(), 16, "10.88.0.1".into())
        );
        assert_eq!((found.mac.as_str(), found.v6.unwrap().1), ("02:00:00:00:00:05", 64));
        put.result = Some(json!({"cniVersion":"1.0.0"}));
        assert!(endpoint(&put).is_err());
    }

    #[test]
    fn a_plugin_is_a_name_and_nothing_else() {
        for bad in ["", "../sh", "/bin/sh", ".hidden"] {
            assert!(find_plugin(&json!({"type": bad}), "/bin").is_err(), "{bad}");
        }
        assert!(find_plugin(&json!({"type": "sh"}), "/nowhere:/bin").is_ok());
    }
}
