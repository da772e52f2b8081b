//! What a build request asks for: Docker's parameters, and what `sampan build` adds to them.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderMap, StatusCode};
use sampan_base::ImageRef;
use sampan_docker_api::build::{BUILD_EXTRAS_HEADER, BuildExtras, ExtraContext, HostDirectory};
use sampan_engine::build::{
    BuildOptions, BuildRequest, CacheSource, CacheTarget, Files, Named, SameDirectory, Secret, StepLimits,
    StepNetwork,
};

use crate::docker::error::{Answer, ApiError};
use crate::docker::images::{invalid_reference, repeated};
use crate::docker::registry::all_credentials;
use crate::docker::{Query, is_on};

/// A build, and how to tell of it.
pub(super) struct Wanted {
    pub(super) request: BuildRequest,
    /// Only the image's id is told.
    pub(super) quiet: bool,
    /// [`sampan_docker_api::build::BuildUpdate`]s are told, and none of Docker's lines.
    pub(super) updates: bool,
    /// Nothing is built.
    pub(super) check: bool,
}

pub(super) fn read(
    query: &Query,
    raw: Option<&str>,
    headers: &HeaderMap,
    body: Box<dyn Read + Send>,
) -> Answer<Wanted> {
    let extras = extras(headers)?;
    let mut options = parameters(query, raw)?;
    let files = match &extras.directory {
        Some(directory) => Files::Directory(directory_of(directory)?),
        // Docker's client names a stream of its own so.
        None => match query.get("remote").filter(|r| !r.is_empty() && *r != "client-session") {
            Some(url) => Files::Remote(url.to_owned()),
            None => Files::Tar(body),
        },
    };
    let mut named = BTreeMap::new();
    for (name, context) in &extras.contexts {
        named.insert(name.clone(), context_of(context)?);
    }
    options.dockerfile_text = extras.dockerfile;
    for (id, secret) in &extras.secrets {
        let decoded = BASE64_STANDARD.decode(secret);
        // Not the error's own words: they have a piece of the secret.
        let decoded = decoded.map_err(|_| ApiError::invalid(format!("the secret `{id}` is not base64")))?;
        options.secrets.insert(id.clone(), Secret(decoded));
    }
    options.ssh = extras.ssh;
    // Where nobody says otherwise it is as in Docker's own builder: the host's network may be used.
    options.allow_host_network = extras.allow.is_empty() || extras.allow.iter().any(|a| a == "network.host");
    for entitlement in &extras.allow {
        match entitlement.as_str() {
            "security.insecure" => options.allow_insecure = true,
            "network.host" => {}
            other => return Err(ApiError::invalid(format!("unknown entitlement `{other}`"))),
        }
    }
    options.no_cache_stages = extras.no_cache_filter.iter().map(|s| s.to_lowercase()).collect();
    for source in &extras.cache_from {
        options.cache_from.push(cache_source(source)?);
    }
    for target in &extras.cache_to {
        options.cache_to.push(cache_target(target)?);
    }
    let credentials = all_credentials(headers);
    let request = BuildRequest { files, named, credentials, options };
    Ok(Wanted { request, quiet: is_on(query.get("q")), updates: extras.updates, check: extras.check })
}

fn extras(headers: &HeaderMap) -> Answer<BuildExtras> {
    let Some(value) = headers.get(BUILD_EXTRAS_HEADER) else { return Ok(BuildExtras::default()) };
    let json = BASE64_STANDARD.decode(value.as_bytes());
    let json =
        json.map_err(|_| ApiError::invalid(format!("the header {BUILD_EXTRAS_HEADER} is not base64")))?;
    serde_json::from_slice(&json)
        .map_err(|e| ApiError::invalid(format!("cannot read the header {BUILD_EXTRAS_HEADER}: {e}")))
}

/// A directory that both sides see; the client is told with a status of its own if not, so that it can send the files.
fn directory_of(directory: &HostDirectory) -> Answer<SameDirectory> {
    let HostDirectory { path, device, inode } = directory;
    let same = SameDirectory { path: path.clone(), identity: (*device, *inode) };
    same.open().map_err(|e| ApiError { status: StatusCode::PRECONDITION_FAILED, message: e.to_string() })?;
    Ok(same)
}

fn context_of(context: &ExtraContext) -> Answer<Named> {
    match context {
        ExtraContext::Directory(directory) => Ok(Named::Files(Files::Directory(directory_of(directory)?))),
        ExtraContext::Image(name) => Ok(Named::Image(name.clone())),
        ExtraContext::Remote(url) => Ok(Named::Files(Files::Remote(url.clone()))),
    }
}

fn cache_source(source: &BTreeMap<String, String>) -> Answer<CacheSource> {
    match source.get("type").map_or("registry", String::as_str) {
        "local" => Ok(CacheSource::Local(path_of(source, "src")?)),
        "registry" => Ok(CacheSource::Registry(name_of(source)?)),
        other => Err(ApiError::unsupported(format!("--cache-from type={other} is not supported"))),
    }
}

fn cache_target(target: &BTreeMap<String, String>) -> Answer<CacheTarget> {
    let all = match target.get("mode").map_or("min", String::as_str) {
        "min" => false,
        "max" => true,
        other => return Err(ApiError::invalid(format!("--cache-to: unknown mode `{other}`"))),
    };
    match target.get("type").map_or("registry", String::as_str) {
        "local" => Ok(CacheTarget::Local { directory: path_of(target, "dest")?, all }),
        "registry" => Ok(CacheTarget::Registry { name: name_of(target)?, all }),
        "inline" => Ok(CacheTarget::Inline),
        other => Err(ApiError::unsupported(format!("--cache-to type={other} is not supported"))),
    }
}

fn path_of(fields: &BTreeMap<String, String>, key: &str) -> Answer<PathBuf> {
    let path = fields.get(key).map(PathBuf::from).filter(|p| p.is_absolute());
    path.ok_or_else(|| ApiError::invalid(format!("a local cache needs `{key}`, an absolute path")))
}

fn name_of(fields: &BTreeMap<String, String>) -> Answer<String> {
    let name = fields.get("ref").ok_or_else(|| ApiError::invalid("a cache in a registry needs `ref`"))?;
    name.parse::<ImageRef>().map_err(|e| invalid_reference(&e))?;
    Ok(name.clone())
}

fn parameters(query: &Query, raw: Option<&str>) -> Answer<BuildOptions> {
    if query.get("version").is_some_and(|v| v == "2") {
        return Err(ApiError::unsupported(
            "builds by BuildKit's protocol are not supported: set DOCKER_BUILDKIT=0",
        ));
    }
    if is_on(query.get("outputs")) {
        return Err(ApiError::unsupported("outputs are for BuildKit's protocol, which is not supported"));
    }
    let mut names = Vec::new();
    for text in repeated(raw, "t") {
        names.push(text.parse::<ImageRef>().map_err(|e| invalid_reference(&e))?);
    }
    let text = |key: &str| query.get(key).filter(|t| !t.is_empty()).cloned();
    let platform = match text("platform") {
        Some(platform) => Some(platform.parse().map_err(|e| ApiError::invalid(format!("{e}")))?),
        None => None,
    };
    // Docker's clients repeat the parameter; ours has always had all in one.
    let hosts = repeated(raw, "extrahosts");
    let hosts = hosts.iter().flat_map(|text| text.split(',')).filter_map(|host| host.split_once(':'));
    let extra_hosts: Vec<String> = hosts.map(|(name, address)| format!("{address} {name}")).collect();
    let build_args: BTreeMap<String, String> =
        map(query, "buildargs")?.into_iter().filter_map(|(k, v)| Some((k, v?))).collect();
    let cache_from: Vec<String> = match query.get("cachefrom").filter(|t| !t.is_empty() && *t != "null") {
        None => Vec::new(),
        Some(text) => {
            serde_json::from_str(text).map_err(|e| ApiError::invalid(format!("invalid `cachefrom`: {e}")))?
        }
    };
    let inline = build_args.get("BUILDKIT_INLINE_CACHE").is_some_and(|value| value == "1");
    Ok(BuildOptions {
        cache_from: cache_from.into_iter().map(CacheSource::Registry).collect(),
        cache_to: if inline { vec![CacheTarget::Inline] } else { Vec::new() },
        dockerfile: text("dockerfile").unwrap_or_else(|| "Dockerfile".to_owned()),
        names,
        target: text("target"),
        platform,
        // An argument without a value is one that the client does not have.
        build_args,
        labels: map(query, "labels")?.into_iter().map(|(k, v)| (k, v.unwrap_or_default())).collect(),
        no_cache: is_on(query.get("nocache")),
        pull: is_on(query.get("pull")),
        squash: is_on(query.get("squash")),
        network: match query.get("networkmode").map_or("", String::as_str) {
            "" | "default" | "bridge" => StepNetwork::Default,
            "none" => StepNetwork::None,
            "host" => StepNetwork::Host,
            other => StepNetwork::Named(other.to_owned()),
        },
        extra_hosts,
        limits: limits(query)?,
        ..BuildOptions::default()
    })
}

fn map(query: &Query, key: &str) -> Answer<BTreeMap<String, Option<String>>> {
    match query.get(key).filter(|t| !t.is_empty() && *t != "null") {
        None => Ok(BTreeMap::new()),
        Some(text) => {
            serde_json::from_str(text).map_err(|e| ApiError::invalid(format!("invalid `{key}`: {e}")))
        }
    }
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Ulimit {
    name: String,
    soft: i64,
    hard: i64,
}

fn limits(query: &Query) -> Answer<StepLimits> {
    fn number<T: std::str::FromStr + PartialEq + Default>(query: &Query, key: &str) -> Answer<Option<T>> {
        let Some(text) = query.get(key).filter(|t| !t.is_empty()) else { return Ok(None) };
        let parsed: T = text.parse().map_err(|_| ApiError::invalid(format!("invalid `{key}`: {text}")))?;
        // Docker's clients write 0 for what nobody asked for.
        Ok(Some(parsed).filter(|n| *n != T::default()))
    }
    let ulimits: Vec<Ulimit> = match query.get("ulimits").filter(|t| !t.is_empty() && *t != "null") {
        None => Vec::new(),
        Some(text) => {
            serde_json::from_str(text).map_err(|e| ApiError::invalid(format!("invalid `ulimits`: {e}")))?
        }
    };
    let text = |key: &str| query.get(key).cloned().unwrap_or_default();
    Ok(StepLimits {
        memory: number(query, "memory")?,
        memory_swap: number(query, "memswap")?,
        cpu_period: number(query, "cpuperiod")?,
        cpu_quota: number(query, "cpuquota")?,
        cpu_shares: number(query, "cpushares")?,
        cpuset_cpus: text("cpusetcpus"),
        cpuset_mems: text("cpusetmems"),
        shm_size: number(query, "shmsize")?,
        ulimits: ulimits.into_iter().map(|u| (u.name, u.soft, u.hard)).collect(),
    })
}
