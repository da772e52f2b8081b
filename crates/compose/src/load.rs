//! From files to a project.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::canonical;
use crate::error::ComposeError;
use crate::interpolate::Variables;
use crate::merge::{cleaned, merge, merge_service};
use crate::model::Project;
use crate::yaml::{self, Node};
use crate::{dotenv, resolve};

/// The names that are looked for, best first.
const NAMES: [&str; 4] = ["compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml"];
/// What is read over them, if it is there.
const OVERRIDES: [&str; 4] = [
    "compose.override.yaml",
    "compose.override.yml",
    "docker-compose.override.yml",
    "docker-compose.override.yaml",
];
/// How deep files may include and extend one another.
const MAX_DEPTH: usize = 30;

/// Where files come from.
pub trait Files {
    /// A file's text.
    ///
    /// # Errors
    /// If it can't be read.
    fn read(&self, path: &Path) -> std::io::Result<String>;

    /// Whether there is such a file.
    fn exists(&self, path: &Path) -> bool;
}

/// The files of this machine.
#[derive(Debug, Clone, Copy)]
pub struct Disk;

impl Files for Disk {
    fn read(&self, path: &Path) -> std::io::Result<String> {
        let length = std::fs::metadata(path)?.len();
        if length > yaml::MAX_FILE_BYTES as u64 {
            return Err(std::io::Error::other(format!(
                "it has more than {} MiB",
                yaml::MAX_FILE_BYTES >> 20
            )));
        }
        std::fs::read_to_string(path)
    }

    fn exists(&self, path: &Path) -> bool {
        path.is_file()
    }
}

/// What is to be loaded.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Where this is asked.
    pub here: PathBuf,
    /// `-f`; none: looked for here and above.
    pub files: Vec<PathBuf>,
    /// `--project-directory`.
    pub directory: Option<PathBuf>,
    /// `-p`.
    pub name: Option<String>,
    /// `--profile`.
    pub profiles: Vec<String>,
    /// `--env-file`.
    pub env_files: Vec<PathBuf>,
    /// The variables of who asks.
    pub environment: BTreeMap<String, String>,
    /// The services that were named: their profiles are wanted.
    pub services: Vec<String>,
    /// What standard input says, for `-f -`.
    pub input: Option<String>,
    /// Leave `${…}` as it is.
    pub no_interpolation: bool,
}

/// Reads a project.
///
/// # Errors
/// With file and line, if something is wrong with it.
pub fn load(files: &dyn Files, request: &Request) -> Result<Project, ComposeError> {
    let home = request.environment.get("HOME").map(PathBuf::from);
    let absolute = |path: &Path| canonical::absolute(&path.display().to_string(), &request.here, None);
    let given: Option<PathBuf> = request.directory.as_deref().map(absolute);
    // Which files there are may be said in the file of variables that is here.
    let first = given.clone().unwrap_or_else(|| request.here.clone());
    let mut env_files: Vec<PathBuf> = request.env_files.iter().map(|f| absolute(f)).collect();
    if env_files.is_empty()
        && let Some(list) = request.environment.get("COMPOSE_ENV_FILES").filter(|l| !l.is_empty())
    {
        env_files = list.split(',').map(|file| absolute(Path::new(file))).collect();
    }
    let mut variables = read_variables(files, &env_files, &first, &request.environment)?;
    let known = |variables: &BTreeMap<String, String>, name: &str| {
        let value = request.environment.get(name).or_else(|| variables.get(name));
        value.filter(|value| !value.is_empty()).cloned()
    };
    let mut paths: Vec<PathBuf> = request.files.clone();
    if paths.is_empty()
        && let Some(list) = known(&variables, "COMPOSE_FILE")
    {
        let separator = known(&variables, "COMPOSE_PATH_SEPARATOR").unwrap_or_else(|| ":".to_owned());
        paths = list.split(&separator).map(PathBuf::from).collect();
    }
    let paths = if paths.is_empty() {
        find(files, &first)?
    } else {
        paths.into_iter().map(|p| if p.as_os_str() == "-" { p } else { absolute(&p) }).collect()
    };
    let beside = paths.first().filter(|p| p.as_os_str() != "-").and_then(|p| p.parent());
    let directory = given.or_else(|| beside.map(Path::to_owned)).unwrap_or_else(|| request.here.clone());
    if directory != first {
        variables = read_variables(files, &env_files, &directory, &request.environment)?;
    }
    if env_files.is_empty() && files.exists(&directory.join(".env")) {
        env_files.push(directory.join(".env"));
    }
    let name =
        request.name.clone().filter(|n| !n.is_empty()).or_else(|| known(&variables, "COMPOSE_PROJECT_NAME"));
    let mut loader = Loader {
        files,
        environment: &request.environment,
        home: home.as_deref(),
        input: request.input.as_deref(),
        interpolate: !request.no_interpolation,
        missing: Vec::new(),
        obsolete: false,
    };
    let mut scope = Scope { directory: directory.clone(), variables };
    // The name of the project is a variable of its own, for all files.
    let name = match name {
        Some(name) => check_name(&name)?,
        None => match loader.name_in(&paths, &scope)? {
            Some(name) => check_name(&name)?,
            None => name_of(&directory)?,
        },
    };
    scope.variables.insert("COMPOSE_PROJECT_NAME".to_owned(), name.clone());
    let mut root = loader.project(&paths, &scope, 0)?;
    root.remove("name");
    let mut profiles = request.profiles.clone();
    if profiles.is_empty()
        && let Some(list) = known(&scope.variables, "COMPOSE_PROFILES")
    {
        profiles = list.split(',').map(|p| p.trim().to_owned()).collect();
    }
    let (missing, obsolete) = (loader.missing, loader.obsolete);
    let mut project = Project { name, directory, files: paths, env_files, ..Project::default() };
    project.warnings.extend(
        missing.iter().map(|name| format!("The {name:?} variable is not set. Defaulting to a blank string.")),
    );
    if obsolete {
        project.warnings.push(
            "the attribute `version` is obsolete, it will be ignored, please remove it to avoid potential confusion"
                .to_owned(),
        );
    }
    let outer = resolve::Outer { files, environment: &request.environment, variables: &scope.variables };
    resolve::finish(project, &root, &outer, &profiles, &request.services)
}

/// Looks for files in a directory and those above it.
fn find(files: &dyn Files, directory: &Path) -> Result<Vec<PathBuf>, ComposeError> {
    for place in directory.ancestors() {
        let Some(name) = NAMES.iter().find(|name| files.exists(&place.join(name))) else { continue };
        let mut found = vec![place.join(name)];
        found.extend(OVERRIDES.iter().map(|name| place.join(name)).find(|path| files.exists(path)));
        return Ok(found);
    }
    Err(ComposeError::new(format!(
        "no configuration file provided: there is no {} in `{}` or above: make one, or name one with -f",
        NAMES.join(", "),
        directory.display()
    )))
}

/// The variables of files; without any named, those of `.env`, if there is one.
fn read_variables(
    files: &dyn Files,
    named: &[PathBuf],
    directory: &Path,
    environment: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, ComposeError> {
    let mut all = BTreeMap::new();
    let default = [directory.join(".env")];
    let list = if named.is_empty() { &default[..] } else { named };
    for path in list {
        if named.is_empty() && !files.exists(path) {
            continue;
        }
        let text = files
            .read(path)
            .map_err(|error| ComposeError::new(format!("cannot read `{}`: {error}", path.display())))?;
        all.extend(dotenv::parse(&text, path, environment)?);
    }
    Ok(all)
}

/// A name that was given.
fn check_name(name: &str) -> Result<String, ComposeError> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
    if name.chars().all(good) && name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()) {
        return Ok(name.to_owned());
    }
    Err(ComposeError::new(format!(
        "invalid project name {name:?}: must consist only of lowercase alphanumeric characters, hyphens, and underscores as well as start with a letter or number"
    )))
}

/// A name that a directory's makes.
fn name_of(directory: &Path) -> Result<String, ComposeError> {
    let own = directory.file_name().map(|n| n.to_string_lossy().to_lowercase()).unwrap_or_default();
    let name: String = own
        .chars()
        .filter(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_'))
        .collect();
    let name = name.trim_start_matches(['-', '_']);
    if name.is_empty() {
        return Err(ComposeError::new(
            "project name must not be empty: give it with -p, or as `name:` in the file",
        ));
    }
    Ok(name.to_owned())
}

/// What holds for a file: where its paths begin, and its variables.
#[derive(Clone)]
struct Scope {
    directory: PathBuf,
    variables: BTreeMap<String, String>,
}

struct Loader<'l> {
    files: &'l dyn Files,
    environment: &'l BTreeMap<String, String>,
    home: Option<&'l Path>,
    input: Option<&'l str>,
    interpolate: bool,
    missing: Vec<String>,
    obsolete: bool,
}

impl Loader<'_> {
    fn text(&self, path: &Path) -> Result<String, ComposeError> {
        if path.as_os_str() == "-" {
            return self
                .input
                .map(str::to_owned)
                .ok_or_else(|| ComposeError::new("there is nothing on standard input"));
        }
        self.files
            .read(path)
            .map_err(|error| ComposeError::new(format!("cannot read `{}`: {error}", path.display())))
    }

    /// The documents of a file, with variables replaced.
    fn documents(&mut self, path: &Path, scope: &Scope) -> Result<Vec<Node>, ComposeError> {
        let mut documents = yaml::parse(&self.text(path)?, path)?;
        documents.retain(|node| !node.is_null());
        for document in &mut documents {
            if document.as_map().is_none() {
                return Err(document.place.error("Top-level object must be a mapping"));
            }
            if self.interpolate {
                let mut variables = Variables::new(vec![self.environment, &scope.variables]);
                variables.replace_in(document)?;
                for name in variables.missing {
                    if !self.missing.contains(&name) {
                        self.missing.push(name);
                    }
                }
            }
        }
        Ok(documents)
    }

    /// The last name that files give the project.
    fn name_in(&mut self, paths: &[PathBuf], scope: &Scope) -> Result<Option<String>, ComposeError> {
        let mut name = None;
        for path in paths {
            for document in yaml::parse(&self.text(path)?, path)? {
                let Some(node) = document.get("name") else { continue };
                let mut node = node.clone();
                Variables::new(vec![self.environment, &scope.variables]).replace_in(&mut node)?;
                name = node.as_text().map(str::to_owned).or(name);
            }
        }
        Ok(name)
    }

    /// Files one over the other, with what they include and extend.
    fn project(&mut self, paths: &[PathBuf], scope: &Scope, depth: usize) -> Result<Node, ComposeError> {
        if depth > MAX_DEPTH {
            return Err(ComposeError::new("files include one another"));
        }
        let mut whole: Option<Node> = None;
        let mut included: Vec<Node> = Vec::new();
        for path in paths {
            for mut document in self.documents(path, scope)? {
                self.obsolete |= document.remove("version").is_some();
                if let Some(list) = document.remove("include") {
                    included.extend(self.includes(&list, scope, depth)?);
                }
                canonical::file(&mut document)?;
                canonical::resolve_paths(&mut document, &scope.directory, self.home);
                self.extend(&mut document, path, scope)?;
                match &mut whole {
                    Some(whole) => merge(whole, document),
                    None => whole = Some(cleaned(document)),
                }
            }
        }
        let place = crate::error::Place {
            file: paths.first().map_or(Path::new("-"), PathBuf::as_path).into(),
            line: 1,
        };
        let mut whole = whole.ok_or_else(|| place.error("empty compose file"))?;
        for mut part in included {
            part.remove("name");
            import(&mut whole, part)?;
        }
        Ok(whole)
    }

    fn includes(&mut self, list: &Node, scope: &Scope, depth: usize) -> Result<Vec<Node>, ComposeError> {
        let items = list.as_list().ok_or_else(|| list.place.error("`include` must be a list"))?;
        let mut parts = Vec::new();
        for item in items {
            let texts = |node: Option<&Node>| -> Vec<String> {
                match node {
                    Some(node) => match node.as_list() {
                        Some(list) => list.iter().filter_map(Node::as_text).map(str::to_owned).collect(),
                        None => node.as_text().map(str::to_owned).into_iter().collect(),
                    },
                    None => Vec::new(),
                }
            };
            let whole = |text: &String| canonical::absolute(text, &scope.directory, self.home);
            let paths: Vec<PathBuf> = match item.as_map() {
                Some(_) => texts(item.get("path")).iter().map(whole).collect(),
                None => texts(Some(item)).iter().map(whole).collect(),
            };
            let Some(first) = paths.first() else { return Err(item.place.error("`include` names no file")) };
            let directory = match item.get("project_directory").and_then(Node::as_text) {
                Some(text) => canonical::absolute(text, &scope.directory, self.home),
                None => first.parent().unwrap_or(Path::new("/")).to_owned(),
            };
            let env_files: Vec<PathBuf> = texts(item.get("env_file")).iter().map(whole).collect();
            let mut variables = read_variables(self.files, &env_files, &directory, self.environment)?;
            // What who includes has counts first.
            variables.extend(scope.variables.clone());
            let scope = Scope { directory, variables };
            let part = self.project(&paths, &scope, depth + 1).map_err(|error| error.at(&item.place))?;
            parts.push(part);
        }
        Ok(parts)
    }

    /// Puts what services extend beneath them.
    fn extend(&mut self, document: &mut Node, path: &Path, scope: &Scope) -> Result<(), ComposeError> {
        let names: Vec<String> = match document.get("services").and_then(Node::as_map) {
            Some(services) => services.iter().map(|(name, _)| name.clone()).collect(),
            None => return Ok(()),
        };
        let originals = document.clone();
        for name in names {
            let extended = self.extended(&originals, &name, path, scope, &mut Vec::new())?;
            if let Some(services) = document.get_mut("services") {
                services.set(&name, extended);
            }
        }
        Ok(())
    }

    /// A service with what it extends beneath it.
    fn extended(
        &mut self,
        document: &Node,
        name: &str,
        path: &Path,
        scope: &Scope,
        stack: &mut Vec<(PathBuf, String)>,
    ) -> Result<Node, ComposeError> {
        let service = document.get("services").and_then(|s| s.get(name));
        let mut service = service.cloned().ok_or_else(|| {
            document.place.error(format!("cannot extend service {name:?}: it is not in this file"))
        })?;
        let Some(extends) = service.remove("extends").filter(|e| !e.is_null()) else { return Ok(service) };
        let key = (path.to_owned(), name.to_owned());
        if stack.contains(&key) || stack.len() > MAX_DEPTH {
            return Err(extends.place.error(format!("services.{name}: circular reference in `extends`")));
        }
        stack.push(key);
        let (base_name, file) = match extends.as_map() {
            Some(_) => {
                (extends.get("service").and_then(Node::as_text), extends.get("file").and_then(Node::as_text))
            }
            None => (extends.as_text(), None),
        };
        let base_name = base_name.ok_or_else(|| extends.place.error("`extends` names no service"))?;
        let base = match file {
            None => self.extended(document, base_name, path, scope, stack),
            Some(file) => {
                let file = canonical::absolute(file, &scope.directory, self.home);
                let directory = file.parent().unwrap_or(Path::new("/")).to_owned();
                let scope = Scope { directory, variables: scope.variables.clone() };
                let mut other: Option<Node> = None;
                for mut document in self.documents(&file, &scope).map_err(|e| e.at(&extends.place))? {
                    canonical::file(&mut document)?;
                    canonical::resolve_paths(&mut document, &scope.directory, self.home);
                    match &mut other {
                        Some(other) => merge(other, document),
                        None => other = Some(document),
                    }
                }
                let other = other.ok_or_else(|| extends.place.error("the file is empty"))?;
                self.extended(&other, base_name, &file, &scope, stack)
            }
        };
        let mut base = cleaned(base.map_err(|error| error.at(&extends.place))?);
        stack.pop();
        merge_service(&mut base, service);
        Ok(base)
    }
}

/// Takes in what an included file has; nothing of it may be there under its name already.
fn import(whole: &mut Node, part: Node) -> Result<(), ComposeError> {
    for kind in ["services", "networks", "volumes", "configs", "secrets"] {
        let Some(node) = part.get(kind) else { continue };
        for (name, value) in node.as_map().unwrap_or_default() {
            if whole.get(kind).is_none_or(Node::is_null) {
                whole.set(kind, Node::map(Vec::new(), &node.place));
            }
            let Some(known) = whole.get_mut(kind) else { continue };
            match known.get(name) {
                Some(same) if same.content == value.content || value.is_null() => {}
                Some(_) => {
                    return Err(value.place.error(format!("{kind}.{name} conflicts with imported resource")));
                }
                None => known.set(name, value.clone()),
            }
        }
    }
    Ok(())
}
