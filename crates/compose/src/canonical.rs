//! Every short form as its long one, so that files can be merged and read in one way.

use std::path::{Component, Path, PathBuf};

use sampan_docker_api::written;

use crate::error::{ComposeError, Place};
use crate::yaml::{Content, Node};

type Done = Result<(), ComposeError>;

/// Brings a whole file into its long form.
pub(crate) fn file(root: &mut Node) -> Done {
    each(root, "services", service)?;
    for kind in ["networks", "volumes", "configs", "secrets"] {
        each(root, kind, resource)?;
    }
    Ok(())
}

/// Does something to each entry of a map of the file.
fn each(root: &mut Node, key: &str, act: impl Fn(&mut Node) -> Done) -> Done {
    let Some(node) = root.get_mut(key) else { return Ok(()) };
    if node.is_null() {
        return Ok(());
    }
    let place = node.place.clone();
    let entries = node.as_map_mut().ok_or_else(|| place.error(format!("`{key}` must be a map")))?;
    for (name, entry) in entries {
        act(entry).map_err(|error| error.of(&format!("{key}.{name}")))?;
    }
    Ok(())
}

fn resource(node: &mut Node) -> Done {
    list_to_map(node, "labels", &assignment)?;
    // `external: {name: x}` is how it was written once.
    let name = node.get("external").and_then(|e| e.get("name")).cloned();
    if let Some(external) = node.get("external").filter(|e| e.as_map().is_some()) {
        let place = external.place.clone();
        node.set("external", Node::plain("true", &place));
        if let Some(name) = name {
            node.set("name", name);
        }
    }
    Ok(())
}

/// Brings a service into its long form.
pub(crate) fn service(node: &mut Node) -> Done {
    if node.is_null() {
        node.content = Content::Map(Vec::new());
    }
    if node.as_map().is_none() {
        return Err(node.place.error("a service must be a map"));
    }
    if let Some(build) = node.get_mut("build") {
        self::build(build)?;
    }
    for key in ["command", "entrypoint"] {
        command(node, key)?;
    }
    for hooks in ["post_start", "pre_stop"] {
        for hook in items(node, hooks) {
            command(hook, "command")?;
            list_to_map(hook, "environment", &assignment)?;
        }
    }
    for key in ["environment", "labels", "annotations", "sysctls", "storage_opt"] {
        list_to_map(node, key, &assignment)?;
    }
    list_to_map(node, "networks", &alone)?;
    list_to_map(node, "depends_on", &|item, place| {
        let condition = ("condition".to_owned(), Node::text("service_started", place));
        Ok((item.to_owned(), Node::map(vec![condition], place)))
    })?;
    hosts(node)?;
    for key in ["dns", "dns_search", "tmpfs", "env_file", "label_file", "profiles"] {
        one_to_list(node, key);
    }
    for item in items(node, "env_file") {
        scalar_to_map(item, "path");
    }
    for kind in ["configs", "secrets"] {
        for item in items(node, kind) {
            scalar_to_map(item, "source");
        }
    }
    for item in items(node, "devices") {
        device(item)?;
    }
    ulimits(node);
    if let Some(health) = node.get_mut("healthcheck") {
        health_test(health)?;
    }
    if let Some(deploy) = node.get_mut("deploy") {
        list_to_map(deploy, "labels", &assignment)?;
    }
    ports(node)?;
    for item in items(node, "volumes") {
        volume(item)?;
    }
    Ok(())
}

fn build(node: &mut Node) -> Done {
    scalar_to_map(node, "context");
    for key in ["args", "labels", "additional_contexts"] {
        list_to_map(node, key, &assignment)?;
    }
    list_to_map(node, "ssh", &|item, place| {
        let (id, path) = item.split_once('=').unwrap_or((item, ""));
        Ok((id.to_owned(), Node::text(path, place)))
    })?;
    hosts(node)?;
    for item in items(node, "secrets") {
        scalar_to_map(item, "source");
    }
    one_to_list(node, "tags");
    ulimits(node);
    Ok(())
}

/// The items of a list, if there is one.
fn items<'n>(node: &'n mut Node, key: &str) -> impl Iterator<Item = &'n mut Node> {
    let list = node.get_mut(key).and_then(|n| match &mut n.content {
        Content::List(items) => Some(items),
        _ => None,
    });
    list.into_iter().flatten()
}

/// `NAME=VALUE`; a name alone has none.
fn assignment(item: &str, place: &Place) -> Result<(String, Node), ComposeError> {
    Ok(match item.split_once('=') {
        Some((name, value)) => (name.to_owned(), Node::text(value, place)),
        None => (item.to_owned(), Node::plain("", place)),
    })
}

fn alone(item: &str, place: &Place) -> Result<(String, Node), ComposeError> {
    Ok((item.to_owned(), Node::plain("", place)))
}

type Split<'s> = &'s dyn Fn(&str, &Place) -> Result<(String, Node), ComposeError>;

/// A list as the map that it stands for; later items win.
fn list_to_map(node: &mut Node, key: &str, split: Split<'_>) -> Done {
    let Some(value) = node.get_mut(key) else { return Ok(()) };
    let Content::List(list) = &value.content else { return Ok(()) };
    let mut map = Node::map(Vec::new(), &value.place);
    for item in list {
        let text = item
            .as_text()
            .ok_or_else(|| item.place.error(format!("`{key}` lists something that is no text")))?;
        let (name, value) = split(text, &item.place)?;
        map.set(&name, value);
    }
    map.order = value.order;
    *value = map;
    Ok(())
}

/// `name:address` or `name=address` lines, or a map, as a map of lists.
fn hosts(node: &mut Node) -> Done {
    let Some(value) = node.get_mut("extra_hosts") else { return Ok(()) };
    let mut map = Node::map(Vec::new(), &value.place);
    map.order = value.order;
    let mut add = |name: &str, address: &str, place: &Place| {
        let address = Node::text(address.trim_matches(['[', ']']), place);
        match map.get_mut(name).map(|known| &mut known.content) {
            Some(Content::List(known)) => known.push(address),
            _ => map.set(name, Node::list(vec![address], place)),
        }
    };
    match &value.content {
        Content::List(list) => {
            for item in list {
                let text = item.as_text().unwrap_or_default();
                let split = text.split_once('=').or_else(|| text.split_once(':'));
                let (name, address) =
                    split.ok_or_else(|| item.place.error(format!("`{text}` is no NAME:ADDRESS")))?;
                add(name, address, &item.place);
            }
        }
        Content::Map(entries) => {
            for (name, addresses) in entries {
                match &addresses.content {
                    Content::List(list) => {
                        list.iter().for_each(|a| add(name, a.as_text().unwrap_or_default(), &a.place));
                    }
                    _ => add(name, addresses.as_text().unwrap_or_default(), &addresses.place),
                }
            }
        }
        Content::Scalar { .. } => return Ok(()),
    }
    *value = map;
    Ok(())
}

fn one_to_list(node: &mut Node, key: &str) {
    if let Some(value) = node.get_mut(key).filter(|v| v.as_text().is_some()) {
        let mut list = Node::list(vec![value.clone()], &value.place);
        list.order = value.order;
        *value = list;
    }
}

fn scalar_to_map(node: &mut Node, key: &str) {
    if node.as_text().is_some() {
        let mut map = Node::map(vec![(key.to_owned(), node.clone())], &node.place);
        map.order = node.order;
        *node = map;
    }
}

/// A command in one text is split as a shell does.
fn command(node: &mut Node, key: &str) -> Done {
    let Some(value) = node.get_mut(key) else { return Ok(()) };
    if let Content::Scalar { text, .. } = &value.content
        && !value.is_null()
    {
        let words = shell_words::split(text)
            .map_err(|_| value.place.error(format!("a quote does not end in `{text}`")))?;
        let words = words.into_iter().map(|word| Node::text(word, &value.place)).collect();
        let mut list = Node::list(words, &value.place);
        list.order = value.order;
        *value = list;
    }
    Ok(())
}

fn health_test(node: &mut Node) -> Done {
    let Some(test) = node.get_mut("test") else { return Ok(()) };
    if let Some(text) = test.as_text() {
        let words = [Node::text("CMD-SHELL", &test.place), Node::text(text, &test.place)];
        *test = Node::list(words.to_vec(), &test.place);
    }
    let first = test.as_list().and_then(|l| l.first()).and_then(Node::as_text).unwrap_or("NONE");
    if !matches!(first, "NONE" | "CMD" | "CMD-SHELL") {
        return Err(test
            .place
            .error("the first word of a health check's test must be NONE, CMD or CMD-SHELL"));
    }
    Ok(())
}

fn ulimits(node: &mut Node) {
    let Some(entries) = node.get_mut("ulimits").and_then(Node::as_map_mut) else { return };
    for (_, limit) in entries {
        if limit.as_text().is_some() {
            let both = vec![("soft".to_owned(), limit.clone()), ("hard".to_owned(), limit.clone())];
            *limit = Node::map(both, &limit.place);
        }
    }
}

fn device(node: &mut Node) -> Done {
    let Some(text) = node.as_text() else { return Ok(()) };
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, permissions) = match parts[..] {
        [source] => (source, source, "rwm"),
        [source, target] => (source, target, "rwm"),
        [source, target, permissions] => (source, target, permissions),
        _ => return Err(node.place.error(format!("`{text}` is no HOST[:CONTAINER[:rwm]]"))),
    };
    let field = |key: &str, value: &str| (key.to_owned(), Node::text(value, &node.place));
    let fields = vec![field("source", source), field("target", target), field("permissions", permissions)];
    *node = Node::map(fields, &node.place);
    Ok(())
}

fn ports(node: &mut Node) -> Done {
    let Some(value) = node.get_mut("ports") else { return Ok(()) };
    let place = value.place.clone();
    let Content::List(list) = &mut value.content else {
        return if value.is_null() { Ok(()) } else { Err(place.error("`ports` must be a list")) };
    };
    let mut all = Vec::new();
    for item in std::mem::take(list) {
        let place = item.place.clone();
        let Some(text) = item.as_text() else {
            let mut item = item;
            for (key, default) in [("mode", "ingress"), ("protocol", "tcp")] {
                if item.get(key).is_none() {
                    item.set(key, Node::text(default, &place));
                }
            }
            all.push(item);
            continue;
        };
        for (port, binding) in written::published_port(text).map_err(|why| place.error(why))? {
            let (target, protocol) = port.split_once('/').unwrap_or((&port, "tcp"));
            let mut fields = vec![
                ("mode".to_owned(), Node::text("ingress", &place)),
                ("target".to_owned(), Node::plain(target, &place)),
                ("protocol".to_owned(), Node::text(protocol, &place)),
            ];
            if !binding.host_port.is_empty() {
                fields.push(("published".to_owned(), Node::text(binding.host_port, &place)));
            }
            if !binding.host_ip.is_empty() {
                fields.push(("host_ip".to_owned(), Node::text(binding.host_ip, &place)));
            }
            all.push(Node::map(fields, &place));
        }
    }
    *list = all;
    Ok(())
}

/// Whether a mount's source is a path rather than a volume's name.
pub(crate) fn is_path(source: &str) -> bool {
    source.starts_with(['.', '/', '~'])
}

fn volume(node: &mut Node) -> Done {
    let Some(text) = node.as_text().map(str::to_owned) else { return Ok(()) };
    let place = node.place.clone();
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, modes) = match parts[..] {
        [target] => ("", target, ""),
        [source, target] => (source, target, ""),
        [source, target, modes] => (source, target, modes),
        _ => return Err(place.error(format!("`{text}` is no [SOURCE:]TARGET[:MODE]"))),
    };
    if target.is_empty() || (source.is_empty() && parts.len() > 1) {
        return Err(place.error(format!("`{text}` is no [SOURCE:]TARGET[:MODE]: a part is empty")));
    }
    let kind = if is_path(source) { "bind" } else { "volume" };
    let mut out = Node::map(vec![("type".to_owned(), Node::text(kind, &place))], &place);
    if !source.is_empty() {
        out.set("source", Node::text(source, &place));
    }
    out.set("target", Node::text(target, &place));
    let mut options = Node::map(Vec::new(), &place);
    if kind == "bind" {
        options.set("create_host_path", Node::plain("true", &place));
    }
    for mode in modes.split(',').filter(|m| !m.is_empty()) {
        match mode {
            "ro" => out.set("read_only", Node::plain("true", &place)),
            "rw" => {}
            "nocopy" if kind == "volume" => options.set("nocopy", Node::plain("true", &place)),
            "z" | "Z" => {
                if kind == "bind" {
                    options.set("selinux", Node::text(mode, &place));
                }
            }
            "shared" | "rshared" | "slave" | "rslave" | "private" | "rprivate" if kind == "bind" => {
                options.set("propagation", Node::text(mode, &place));
            }
            "cached" | "delegated" | "consistent" => out.set("consistency", Node::text(mode, &place)),
            // What else clients send is for the engine to know.
            mode => return Err(place.error(format!("`{mode}` is no mode of a {kind} in `{text}`"))),
        }
    }
    if options.as_map().is_some_and(|o| !o.is_empty()) {
        out.set(kind, options);
    }
    *node = out;
    Ok(())
}

/// Makes the paths of a file whole, which are relative to `directory`.
pub(crate) fn resolve_paths(root: &mut Node, directory: &Path, home: Option<&Path>) {
    let resolve = |node: Option<&mut Node>, only_paths: bool| {
        if let Some(node) = node
            && let Some(text) = node.as_text()
            && (!only_paths || is_path(text))
        {
            *node = Node::text(absolute(text, directory, home).display().to_string(), &node.place);
        }
    };
    for (_, service) in root.get_mut("services").and_then(Node::as_map_mut).into_iter().flatten() {
        if let Some(build) = service.get_mut("build") {
            let local = build.get("context").and_then(Node::as_text).is_some_and(|c| !is_remote(c));
            if local {
                resolve(build.get_mut("context"), false);
            }
            for (_, context) in
                build.get_mut("additional_contexts").and_then(Node::as_map_mut).into_iter().flatten()
            {
                let local = context.as_text().is_some_and(|c| !is_remote(c));
                resolve(Some(context).filter(|_| local), false);
            }
        }
        for item in items(service, "env_file") {
            resolve(item.get_mut("path"), false);
        }
        if let Some(Content::List(files)) = service.get_mut("label_file").map(|n| &mut n.content) {
            files.iter_mut().for_each(|file| resolve(Some(file), false));
        }
        for item in items(service, "volumes") {
            if item.get("type").and_then(Node::as_text) == Some("bind") {
                resolve(item.get_mut("source"), false);
            }
        }
    }
    for kind in ["configs", "secrets"] {
        for (_, object) in root.get_mut(kind).and_then(Node::as_map_mut).into_iter().flatten() {
            resolve(object.get_mut("file"), false);
        }
    }
}

/// Whether a build's context is somewhere else.
pub fn is_remote(context: &str) -> bool {
    [
        "http://",
        "https://",
        "git://",
        "ssh://",
        "github.com/",
        "git@",
        "docker-image://",
        "oci-layout://",
        "service:",
        "target:",
    ]
    .iter()
    .any(|prefix| context.starts_with(prefix))
}

/// A path made whole, without asking the file system.
pub fn absolute(text: &str, directory: &Path, home: Option<&Path>) -> PathBuf {
    let path = match (text.strip_prefix('~'), home) {
        (Some(rest), Some(home)) if rest.is_empty() || rest.starts_with('/') => {
            home.join(rest.trim_start_matches('/'))
        }
        _ => directory.join(text),
    };
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                out.pop();
            }
            Component::CurDir => {}
            part => out.push(part),
        }
    }
    out
}
