//! Image references: `[registry[:port]/]path[:tag][@digest]`, by the grammar that Docker and the OCI
//! distribution spec share, with Docker's defaults for what is left out.

use std::str::FromStr;

use crate::{Digest, digest::InvalidDigest};

/// An image's name. `debian` and `docker.io/library/debian:latest` are the same one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ImageRef {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// A text that is not an image reference.
#[derive(Debug, thiserror::Error)]
#[error("invalid image reference `{text}`: {why}")]
pub struct InvalidImageRef {
    /// The text as given, shortened.
    pub text: String,
    /// What is wrong with it.
    pub why: String,
}

const DEFAULT_REGISTRY: &str = "docker.io";
const DEFAULT_NAMESPACE: &str = "library/";
const DEFAULT_TAG: &str = "latest";
/// Registry and repository together, in bytes (distribution-spec; Docker refuses longer ones).
const MAX_NAME_BYTES: usize = 255;
const MAX_TAG_BYTES: usize = 128;

impl ImageRef {
    /// The registry's host, with its port if one was given: `docker.io`, `127.0.0.1:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The path in the registry: `library/debian`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, if one was given, or `latest` if neither a tag nor a digest was.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if one was given.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The same repository with another tag and no digest.
    ///
    /// # Errors
    /// If `tag` is not one.
    pub fn with_tag(&self, tag: &str) -> Result<ImageRef, InvalidImageRef> {
        check_tag(tag).map_err(|why| InvalidImageRef { text: shorten(tag), why })?;
        Ok(ImageRef { tag: Some(tag.to_owned()), digest: None, ..self.clone() })
    }

    /// The same repository by the digest of a manifest, without a tag.
    #[must_use]
    pub fn with_digest(&self, digest: &Digest) -> ImageRef {
        ImageRef { tag: None, digest: Some(digest.clone()), ..self.clone() }
    }

    /// Whether both name the same repository of the same registry.
    pub fn same_repository(&self, other: &ImageRef) -> bool {
        (&self.registry, &self.repository) == (&other.registry, &other.repository)
    }

    /// The repository as people write it, without `docker.io/library/`: `debian`, `127.0.0.1:5000/web`.
    pub fn familiar_repository(&self) -> String {
        if self.registry != DEFAULT_REGISTRY {
            return format!("{}/{}", self.registry, self.repository);
        }
        let short = self.repository.strip_prefix(DEFAULT_NAMESPACE).filter(|rest| !rest.contains('/'));
        short.unwrap_or(&self.repository).to_owned()
    }

    /// As people write it: `debian:bookworm`.
    pub fn familiar(&self) -> String {
        self.familiar_repository() + &self.suffix()
    }

    /// With nothing left out: `docker.io/library/debian:bookworm`.
    pub fn canonical(&self) -> String {
        format!("{}/{}{}", self.registry, self.repository, self.suffix())
    }

    fn suffix(&self) -> String {
        let tag = self.tag.as_ref().map(|t| format!(":{t}")).unwrap_or_default();
        let digest = self.digest.as_ref().map(|d| format!("@{d}")).unwrap_or_default();
        tag + &digest
    }
}

impl FromStr for ImageRef {
    type Err = InvalidImageRef;

    fn from_str(text: &str) -> Result<Self, InvalidImageRef> {
        parse(text).map_err(|why| InvalidImageRef { text: shorten(text), why })
    }
}

fn parse(text: &str) -> Result<ImageRef, String> {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest.parse().map_err(|e: InvalidDigest| e.to_string())?)),
        None => (text, None),
    };
    // A colon after the last slash starts a tag; one before it is a registry's port.
    let name_start = rest.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match rest[name_start..].find(':') {
        Some(colon) => (&rest[..name_start + colon], Some(&rest[name_start + colon + 1..])),
        None => (rest, None),
    };
    if let Some(tag) = tag {
        check_tag(tag)?;
    }
    let (registry, path) = match name.split_once('/') {
        // Docker's rule: the first part is a registry if it has a dot, a port or capitals, or is `localhost`.
        Some((first, path))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            (first, path)
        }
        _ => (DEFAULT_REGISTRY, name),
    };
    let registry = if registry == "index.docker.io" { DEFAULT_REGISTRY } else { registry };
    check_registry(registry)?;
    check_path(path)?;
    let repository = if registry == DEFAULT_REGISTRY && !path.contains('/') {
        format!("{DEFAULT_NAMESPACE}{path}")
    } else {
        path.to_owned()
    };
    if registry.len() + 1 + repository.len() > MAX_NAME_BYTES {
        return Err(format!("the name is longer than {MAX_NAME_BYTES} characters"));
    }
    let tag = match (tag, &digest) {
        (Some(tag), _) => Some(tag.to_owned()),
        (None, None) => Some(DEFAULT_TAG.to_owned()),
        (None, Some(_)) => None,
    };
    Ok(ImageRef { registry: registry.to_owned(), repository, tag, digest })
}

fn check_registry(registry: &str) -> Result<(), String> {
    let (host, port) = if let Some(rest) = registry.strip_prefix('[') {
        let (address, after) = rest.split_once(']').ok_or("an IPv6 address needs a closing `]`")?;
        address.parse::<std::net::Ipv6Addr>().map_err(|e| format!("`{address}`: {e}"))?;
        (None, after.strip_prefix(':').or(if after.is_empty() { None } else { Some(after) }))
    } else {
        match registry.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(registry), None),
        }
    };
    let label = |l: &str| {
        !l.is_empty()
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    if let Some(host) = host.filter(|h| !h.split('.').all(label)) {
        return Err(format!("`{host}` is not a registry's host name"));
    }
    match port {
        Some(port) if port.is_empty() || port.len() > 5 || !port.bytes().all(|b| b.is_ascii_digit()) => {
            Err(format!("`{port}` is not a port"))
        }
        _ => Ok(()),
    }
}

/// Path parts are lower-case letters and digits, joined by one `.`, one or two `_`, or any number of `-`.
fn check_path(path: &str) -> Result<(), String> {
    if path.is_empty() {
        return Err("the repository's name is empty".to_owned());
    }
    if path.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("a repository's name must be lower-case".to_owned());
    }
    for part in path.split('/') {
        let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let bytes = part.as_bytes();
        let ends = bytes.first().is_some_and(|b| alnum(*b)) && bytes.last().is_some_and(|b| alnum(*b));
        let separators = part.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
        let joined = separators
            .filter(|s| !s.is_empty())
            .all(|s| matches!(s, "." | "_" | "__") || s.bytes().all(|b| b == b'-'));
        if !ends || !joined {
            return Err(format!("`{part}` is not a part of a repository's name"));
        }
    }
    Ok(())
}

fn check_tag(tag: &str) -> Result<(), String> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let rest = |b: u8| word(b) || matches!(b, b'.' | b'-');
    let fits = tag.len() <= MAX_TAG_BYTES && tag.bytes().next().is_some_and(word) && tag.bytes().all(rest);
    if fits { Ok(()) } else { Err(format!("`{}` is not a tag", shorten(tag))) }
}

fn shorten(text: &str) -> String {
    text.chars().take(100).collect()
}

impl std::fmt::Display for ImageRef {
    /// As people write it; see [`ImageRef::familiar`].
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&self.familiar())
    }
}

impl serde::Serialize for ImageRef {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.canonical())
    }
}

impl<'de> serde::Deserialize<'de> for ImageRef {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, canonical: &str, familiar: &str) {
        let parsed: ImageRef = text.parse().unwrap();
        assert_eq!((parsed.canonical().as_str(), parsed.familiar().as_str()), (canonical, familiar));
        assert_eq!(canonical.parse::<ImageRef>().unwrap(), parsed, "canonical text reads back");
    }

    #[test]
    fn fills_in_dockers_defaults() {
        check("debian", "docker.io/library/debian:latest", "debian:latest");
        check("debian:bookworm", "docker.io/library/debian:bookworm", "debian:bookworm");
        check("me/web", "docker.io/me/web:latest", "me/web:latest");
        check("index.docker.io/debian", "docker.io/library/debian:latest", "debian:latest");
        check("localhost/x:1", "localhost/x:1", "localhost/x:1");
        check("127.0.0.1:5000/a/b:v1.0", "127.0.0.1:5000/a/b:v1.0", "127.0.0.1:5000/a/b:v1.0");
        check("[::1]:5000/x", "[::1]:5000/x:latest", "[::1]:5000/x:latest");
        let digest = Digest::of(b"");
        check(
            &format!("debian@{digest}"),
            &format!("docker.io/library/debian@{digest}"),
            &format!("debian@{digest}"),
        );
    }

    #[test]
    fn says_what_is_wrong() {
        for (text, why) in [
            ("", "empty"),
            ("Debian", "lower-case"),
            ("debian:", "not a tag"),
            ("a//b", "not a part"),
            ("-a", "not a part"),
            ("a..b", "not a part"),
            ("../x", "not a registry's host name"),
            ("x.y:port/z", "not a port"),
            ("debian@sha256:12", "invalid digest"),
            ("debian:la test", "not a tag"),
        ] {
            let error = text.parse::<ImageRef>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
