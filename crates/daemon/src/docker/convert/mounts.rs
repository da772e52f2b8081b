//! Mounts: the short form of `-v`, the long one of `--mount`, `--tmpfs`. The sentences are Docker's.

use std::collections::BTreeMap;
use std::path::PathBuf;

use sampan_docker_api::host_config::{HostConfig, Mount, TmpfsOptions};
use sampan_engine::spec::{MountForm, MountSource, MountSpec, ReadOnlyBelow, VolumeDriver, VolumesFrom};

use super::super::error::{Answer, ApiError};

const PROPAGATIONS: [&str; 6] = ["private", "rprivate", "slave", "rslave", "shared", "rshared"];
/// Hints of how exactly a mount must follow the host, for hosts where that costs time.
const CONSISTENCIES: [&str; 3] = ["consistent", "cached", "delegated"];

/// All mounts of a request.
pub(super) fn mounts(host: &HostConfig) -> Answer<Vec<MountSpec>> {
    let mut list = Vec::new();
    for text in host.binds.iter().flatten() {
        list.push(bind(text, &host.volume_driver)?);
    }
    for mount in host.mounts.iter().flatten() {
        list.push(long(mount)?);
    }
    for (target, text) in host.tmpfs.iter().flatten() {
        check_target(target).map_err(ApiError::invalid)?;
        let options = text.split(',').filter(|o| !o.is_empty()).map(str::to_owned).collect();
        list.push(MountSpec {
            form: MountForm::Tmpfs(text.clone()),
            ..MountSpec::new(MountSource::Tmpfs { options }, clean(target))
        });
    }
    for (i, mount) in list.iter().enumerate() {
        if list[..i].iter().any(|m| m.target == mount.target) {
            return Err(ApiError::invalid(format!("Duplicate mount point: {}", mount.target)));
        }
    }
    Ok(list)
}

/// The containers whose mounts are wanted: `name[:mode]`.
pub(super) fn volumes_from(host: &HostConfig) -> Answer<Vec<VolumesFrom>> {
    let parse = |text: &String| {
        let (container, mode) = text.split_once(':').unwrap_or((text, "rw"));
        if container.is_empty() {
            return Err(ApiError::invalid("malformed volumes-from specification: "));
        }
        let mode_of = Mode::parse(mode)?;
        // Neither makes sense for a mount that another container has.
        if mode_of.propagation.is_some() || mode_of.no_copy {
            return Err(ApiError::invalid(format!("invalid mode: {mode}")));
        }
        let (container, given) = (container.to_owned(), text.clone());
        Ok(VolumesFrom { container, read_only: mode_of.read_only, given })
    };
    host.volumes_from.iter().flatten().map(parse).collect()
}

/// A path without what is superfluous in it.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

fn check_target(target: &str) -> Result<(), String> {
    if !target.starts_with('/') {
        return Err(format!("invalid mount path: '{target}' mount path must be absolute"));
    }
    if clean(target) == "/" {
        return Err("invalid specification: destination can't be '/'".to_owned());
    }
    Ok(())
}

/// The options of a mount in the short form.
#[derive(Default)]
struct Mode {
    read_only: bool,
    no_copy: bool,
    propagation: Option<String>,
}

impl Mode {
    fn parse(text: &str) -> Answer<Mode> {
        let invalid = || ApiError::invalid(format!("invalid mode: {text}"));
        let mut mode = Mode::default();
        let (mut access, mut label, mut copy, mut consistency) = (0, 0, 0, 0);
        if text.is_empty() {
            return Ok(mode);
        }
        for option in text.split(',') {
            match option {
                "ro" => (mode.read_only, access) = (true, access + 1),
                "rw" => access += 1,
                // Labels for SELinux have no effect where it is absent.
                "z" | "Z" => label += 1,
                "nocopy" => (mode.no_copy, copy) = (true, copy + 1),
                other if PROPAGATIONS.contains(&other) => {
                    if mode.propagation.replace(other.to_owned()).is_some() {
                        return Err(invalid());
                    }
                }
                other if CONSISTENCIES.contains(&other) => consistency += 1,
                _ => return Err(invalid()),
            }
        }
        if [access, label, copy, consistency].iter().any(|n| *n > 1) {
            return Err(invalid());
        }
        Ok(mode)
    }
}

/// `source:target[:options]`: an absolute source is a path of the host, another one a volume's name. A target alone gets a
/// volume of its own.
fn bind(text: &str, driver: &str) -> Answer<MountSpec> {
    let invalid = || ApiError::invalid(format!("invalid volume specification: '{text}'"));
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, mode) = match parts[..] {
        [""] | ["", ..] => return Err(invalid()),
        [target] => ("", target, ""),
        // A volume without a name has no options.
        [_, mode] if Mode::parse(mode).is_ok_and(|_| !mode.is_empty()) => return Err(invalid()),
        [source, target] => (source, target, ""),
        [source, target, mode] => (source, target, mode),
        _ => return Err(invalid()),
    };
    let options = Mode::parse(mode)?;
    let is_path = source.starts_with('/');
    let kind = if is_path { "bind" } else { "volume" };
    check_target(target).map_err(|why| {
        ApiError::invalid(format!(
            "invalid volume specification: '{text}': invalid mount config for type \"{kind}\": {why}"
        ))
    })?;
    // Propagation is between the host's mount and the container's: a volume has none of the host's.
    if !is_path && options.propagation.is_some() || is_path && options.no_copy {
        return Err(ApiError::invalid(format!("invalid mode: {mode}")));
    }
    let source = if is_path {
        MountSource::Bind {
            path: PathBuf::from(clean(source)),
            recursive: true,
            create: true,
            read_only_below: ReadOnlyBelow::default(),
        }
    } else {
        MountSource::Volume {
            name: source.to_owned(),
            anonymous: source.is_empty(),
            copy_up: !options.no_copy,
            subpath: String::new(),
            labels: BTreeMap::new(),
            driver: (!driver.is_empty())
                .then(|| VolumeDriver { name: driver.to_owned(), ..VolumeDriver::default() }),
        }
    };
    Ok(MountSpec {
        source,
        target: clean(target),
        read_only: options.read_only,
        mode: if mode.is_empty() && !is_path { "z".to_owned() } else { mode.to_owned() },
        propagation: options.propagation.unwrap_or_default(),
        form: MountForm::Short(text.to_owned()),
    })
}

fn long(mount: &Mount) -> Answer<MountSpec> {
    let kind = mount.kind.as_str();
    let invalid = |why: String| ApiError::invalid(format!("invalid mount config for type \"{kind}\": {why}"));
    let extra = |field: &str| Err(invalid(format!("field {field} must not be specified")));
    if mount.target.is_empty() {
        return Err(invalid("field Target must not be empty".to_owned()));
    }
    check_target(&mount.target).map_err(invalid)?;
    if kind != "bind" && mount.bind_options.is_some() {
        return extra("BindOptions");
    }
    if kind != "volume" && mount.volume_options.is_some() {
        return extra("VolumeOptions");
    }
    if kind != "tmpfs" && mount.tmpfs_options.is_some() {
        return extra("TmpfsOptions");
    }
    if kind != "image" && mount.image_options.is_some() {
        return extra("ImageOptions");
    }
    let subpath = |text: &str| {
        let leaves = text.starts_with('/') || text.split('/').any(|part| part == "..");
        if leaves {
            Err(invalid("subpath must be a relative path within the volume".to_owned()))
        } else {
            Ok(text.to_owned())
        }
    };
    let (mut propagation, mut mode) = (String::new(), String::new());
    let source = match kind {
        "bind" => {
            let options = mount.bind_options.clone().unwrap_or_default();
            if mount.source.is_empty() {
                return Err(invalid("field Source must not be empty".to_owned()));
            }
            if !mount.source.starts_with('/') {
                return Err(invalid(format!(
                    "invalid mount path: '{}' mount path must be absolute",
                    mount.source
                )));
            }
            if !options.propagation.is_empty() && !PROPAGATIONS.contains(&options.propagation.as_str()) {
                return Err(invalid(format!("invalid propagation mode: {}", options.propagation)));
            }
            propagation = options.propagation;
            let read_only_below = match (options.read_only_force_recursive, options.read_only_non_recursive) {
                (true, true) => {
                    return Err(invalid(
                        "ReadOnlyNonRecursive and ReadOnlyForceRecursive conflict".to_owned(),
                    ));
                }
                (true, _) => ReadOnlyBelow::Force,
                (_, true) => ReadOnlyBelow::No,
                _ => ReadOnlyBelow::IfPossible,
            };
            MountSource::Bind {
                path: PathBuf::from(clean(&mount.source)),
                recursive: !options.non_recursive,
                create: options.create_mountpoint,
                read_only_below,
            }
        }
        "volume" => {
            if mount.source.is_empty() && mount.read_only {
                return Err(invalid("must not set ReadOnly mode when using anonymous volumes".to_owned()));
            }
            let options = mount.volume_options.clone().unwrap_or_default();
            "z".clone_into(&mut mode);
            MountSource::Volume {
                name: mount.source.clone(),
                anonymous: mount.source.is_empty(),
                copy_up: !options.no_copy,
                subpath: subpath(&options.subpath)?,
                labels: options.labels,
                driver: options
                    .driver_config
                    .map(|driver| VolumeDriver { name: driver.name, options: driver.options }),
            }
        }
        "tmpfs" => {
            if !mount.source.is_empty() {
                return extra("Source");
            }
            MountSource::Tmpfs {
                options: tmpfs_options(&mount.tmpfs_options.clone().unwrap_or_default(), mount.read_only),
            }
        }
        "image" => {
            if mount.source.is_empty() {
                return Err(invalid("field Source must not be empty".to_owned()));
            }
            MountSource::Image {
                image: mount.source.clone(),
                id: String::new(),
                subpath: subpath(&mount.image_options.clone().unwrap_or_default().subpath)?,
            }
        }
        _ => return Err(invalid("mount type unknown".to_owned())),
    };
    Ok(MountSpec {
        source,
        target: clean(&mount.target),
        read_only: mount.read_only || kind == "image",
        mode,
        propagation,
        form: MountForm::Long(mount.consistency.clone()),
    })
}

fn tmpfs_options(given: &TmpfsOptions, read_only: bool) -> Vec<String> {
    let mut list = Vec::new();
    if read_only {
        list.push("ro".to_owned());
    }
    if given.mode > 0 {
        list.push(format!("mode={:o}", given.mode));
    }
    if given.size_bytes > 0 {
        list.push(format!("size={}", given.size_bytes));
    }
    for option in given.options.iter().flatten() {
        list.push(option.join("="));
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(mount: Answer<MountSpec>) -> String {
        match mount {
            Ok(m) => {
                let source = match m.source {
                    MountSource::Bind { path, recursive, create, .. } => {
                        format!("bind {} recursive={recursive} create={create}", path.display())
                    }
                    MountSource::Volume { name, copy_up, subpath, .. } => {
                        format!("volume {name:?} copy_up={copy_up} sub={subpath:?}")
                    }
                    other => format!("{other:?}"),
                };
                format!("{source} at {} ro={} {}{}", m.target, m.read_only, m.mode, m.propagation)
            }
            Err(error) => error.message,
        }
    }

    #[test]
    fn the_short_form() {
        for (text, expected) in [
            ("/a:/b", "bind /a recursive=true create=true at /b ro=false "),
            ("/a/../c/:/b/:ro,rslave", "bind /c recursive=true create=true at /b ro=true ro,rslaverslave"),
            ("v:/b:nocopy", "volume \"v\" copy_up=false sub=\"\" at /b ro=false nocopy"),
            ("v:/b", "volume \"v\" copy_up=true sub=\"\" at /b ro=false z"),
            ("/b", "volume \"\" copy_up=true sub=\"\" at /b ro=false z"),
            ("/a:ro", "invalid volume specification: '/a:ro'"),
            (":/b", "invalid volume specification: ':/b'"),
            ("/a:/b:ro:x", "invalid volume specification: '/a:/b:ro:x'"),
            ("/a:/b:what", "invalid mode: what"),
            ("/a:/b:ro,rw", "invalid mode: ro,rw"),
            ("v:/b:rslave", "invalid mode: rslave"),
            (
                "a:b",
                "invalid volume specification: 'a:b': invalid mount config for type \"volume\": invalid mount path: 'b' mount path must be absolute",
            ),
        ] {
            assert_eq!(told(bind(text, "")), expected, "{text}");
        }
    }

    #[test]
    fn the_long_form() {
        let check = |json: &str| told(long(&serde_json::from_str(json).unwrap()));
        for (json, expected) in [
            (
                r#"{"Type":"bind","Source":"/a","Target":"/b","BindOptions":{"NonRecursive":true,"CreateMountpoint":true}}"#,
                "bind /a recursive=false create=true at /b ro=false ",
            ),
            (
                r#"{"Type":"volume","Target":"/b","VolumeOptions":{"Subpath":"x/y"}}"#,
                "volume \"\" copy_up=true sub=\"x/y\" at /b ro=false z",
            ),
            (
                r#"{"Type":"volume","Source":"v","Target":"/b","VolumeOptions":{"Subpath":"../x"}}"#,
                "invalid mount config for type \"volume\": subpath must be a relative path within the volume",
            ),
            (
                r#"{"Type":"tmpfs","Target":"/b","ReadOnly":true,"TmpfsOptions":{"SizeBytes":5,"Mode":511,"Options":[["exec"],["nr_inodes","7"]]}}"#,
                r#"Tmpfs { options: ["ro", "mode=777", "size=5", "exec", "nr_inodes=7"] } at /b ro=true "#,
            ),
            (
                r#"{"Type":"volume","Target":"/b","ReadOnly":true}"#,
                "invalid mount config for type \"volume\": must not set ReadOnly mode when using anonymous volumes",
            ),
            (
                r#"{"Type":"tmpfs","Target":"/b","VolumeOptions":{}}"#,
                "invalid mount config for type \"tmpfs\": field VolumeOptions must not be specified",
            ),
            (
                r#"{"Type":"npipe","Target":"/b"}"#,
                "invalid mount config for type \"npipe\": mount type unknown",
            ),
            (
                r#"{"Type":"bind","Source":"/a"}"#,
                "invalid mount config for type \"bind\": field Target must not be empty",
            ),
            (
                r#"{"Type":"tmpfs","Target":"/./"}"#,
                "invalid mount config for type \"tmpfs\": invalid specification: destination can't be '/'",
            ),
        ] {
            assert_eq!(check(json), expected, "{json}");
        }
    }
}
