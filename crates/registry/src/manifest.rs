//! Manifests and indexes: fetched by tag or digest, checked, and chosen by platform; and put.

use http::{HeaderValue, Method, header};
use sampan_base::Digest;
use sampan_oci::image::{Descriptor, Index, Manifest, Platform, media};
use serde::Deserialize;

use crate::client::{Call, Client, Target};
use crate::error::{Cause, RegistryError, clean};
use crate::limits::{MAX_CONFIG_BYTES, MAX_MANIFEST_BYTES};
use crate::platform::{self, choose, is_image};
use crate::repository::{Repository, Which};

/// Where a registry says which digest it sends.
pub(crate) const CONTENT_DIGEST: &str = "docker-content-digest";
const MAX_INDEX_DEPTH: usize = 4;
/// Schema 1, which nobody has made since 2017: its layers' digests are not signed for.
const SCHEMA_1: [&str; 2] = [
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
];

/// A manifest or an index, byte for byte as the registry has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Its bytes, whose digest is that of `descriptor`.
    pub bytes: Vec<u8>,
    /// Digest, size and media type.
    pub descriptor: Descriptor,
}

/// One image of a registry, before its layers.
#[derive(Clone, Debug)]
pub struct Found {
    /// What the name led to: the index, if there is one, else the manifest. Its digest is what the name stands for.
    pub root: Descriptor,
    /// The image's manifest.
    pub manifest: Document,
    /// The manifest, read.
    pub parsed: Manifest,
    /// The image's configuration, byte for byte.
    pub config: Vec<u8>,
}

impl Repository {
    /// The manifest or index that a tag or digest means.
    ///
    /// # Errors
    /// If there is none, or the registry sends another one than was asked for.
    pub fn document(&self, which: &Which) -> Result<Document, RegistryError> {
        let doing = format!("pull the manifest {}:{which}", self.inner.name);
        let scope = self.inner.pull_scope();
        let path = self.inner.path(&format!("manifests/{which}"));
        let (_, document) = self.inner.first(&doing, |client| fetch(client, &path, &scope, which))?;
        Ok(document)
    }

    /// What a tag or digest means, without its content, which some registries count; `None` if there is no such manifest.
    ///
    /// # Errors
    /// If the registry does not answer, or refuses.
    pub fn head(&self, which: &Which) -> Result<Option<Descriptor>, RegistryError> {
        let doing = format!("look for the manifest {}:{which}", self.inner.name);
        let (scope, path) = (self.inner.pull_scope(), self.inner.path(&format!("manifests/{which}")));
        let headers = [(header::ACCEPT, accept())];
        let (_, found) = self.inner.first(&doing, |client| {
            let call = Call { method: Method::HEAD, headers: &headers, ..Call::get(&path, &scope) };
            let answer = client.send(&call)?;
            match answer.status.as_u16() {
                200 => Ok(Some(answer)),
                // A mirror that does not have it is no proof that there is none.
                404 if !client.is_mirror() => Ok(None),
                _ => Err(client.refused(answer)),
            }
        })?;
        let Some(answer) = found else { return Ok(None) };
        let digest = answer.header(CONTENT_DIGEST).and_then(|d| d.parse::<Digest>().ok());
        let size = answer.length().unwrap_or(0);
        let kind = answer.header(header::CONTENT_TYPE).unwrap_or_default().to_owned();
        // A registry need not say the digest; then only the content tells it.
        Ok(match digest {
            Some(digest) => Some(Descriptor::new(bare_type(&kind), digest, size)),
            None => Some(self.document(which)?.descriptor),
        })
    }

    /// The image that a tag or digest means, for a platform: through indexes to its manifest and configuration.
    ///
    /// # Errors
    /// If there is none for the platform, or what comes is not what was asked for.
    pub fn find(&self, which: &Which, wanted: &Platform) -> Result<Found, RegistryError> {
        let mut document = self.document(which)?;
        let root = document.descriptor.clone();
        let client = self.inner.own();
        for _ in 0..MAX_INDEX_DEPTH {
            let kind = document.descriptor.media_type.clone();
            let failed = || client.failed(format!("pull the image {}:{which}", self.inner.name));
            if media::is_manifest(&kind) {
                let parsed: Manifest = serde_json::from_slice(&document.bytes)
                    .map_err(|e| failed()(Cause::Nonsense { what: format!("the manifest: {e}") }))?;
                let config = self.small_blob(&parsed.config, MAX_CONFIG_BYTES)?;
                return Ok(Found { root, manifest: document, parsed, config });
            }
            if !media::is_index(&kind) {
                return Err(failed()(unsupported(&kind)));
            }
            let index: Index = serde_json::from_slice(&document.bytes)
                .map_err(|e| failed()(Cause::Nonsense { what: format!("the index: {e}") }))?;
            let chosen = choose(&index.manifests, wanted).ok_or_else(|| {
                let names =
                    index.manifests.iter().filter(|d| is_image(d)).filter_map(|d| d.platform.as_ref());
                let there: Vec<String> = names.map(platform::show).take(30).collect();
                failed()(Cause::NoPlatform { wanted: platform::show(wanted), there: there.join(", ") })
            })?;
            let expected = chosen.size;
            document = self.document(&Which::Digest(chosen.digest.clone()))?;
            if document.descriptor.size != expected {
                let what = format!(
                    "a manifest of {} bytes where the index says {expected}",
                    document.descriptor.size
                );
                return Err(failed()(Cause::WrongContent { what }));
            }
        }
        Err(client.failed(format!("pull the image {}:{which}", self.inner.name))(Cause::Nonsense {
            what: "its indexes are nested too deep".to_owned(),
        }))
    }

    /// Puts a manifest or index, by its digest and, for a tag, under that name.
    ///
    /// # Errors
    /// If the registry refuses, or took it for another content.
    pub fn put_document(
        &self,
        which: &Which,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<Digest, RegistryError> {
        let client = self.inner.own();
        let digest = Digest::of(bytes);
        let (scope, path) = (self.inner.push_scope(), self.inner.path(&format!("manifests/{which}")));
        let put = || {
            let kind = HeaderValue::from_str(media_type).map_err(|_| Cause::Nonsense {
                what: format!("`{}` is not a media type", clean(media_type)),
            })?;
            let call = Call {
                method: Method::PUT,
                target: Target::Path(&path),
                headers: &[(header::CONTENT_TYPE, kind)],
                body: Some(bytes),
                scope: &scope,
            };
            let answer = client.success(&call)?;
            let said = answer.header(CONTENT_DIGEST).map(str::to_owned);
            answer.drop_body();
            match said {
                Some(said) if said != digest.as_str() => Err(Cause::WrongContent {
                    what: format!("{digest} was sent, the registry stored {}", clean(&said)),
                }),
                _ => Ok(()),
            }
        };
        put().map_err(|e| client.failed(format!("push the manifest {}:{which}", self.inner.name))(e))?;
        Ok(digest)
    }
}

fn accept() -> HeaderValue {
    HeaderValue::from_static(
        "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, \
         application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json, \
         application/json;q=0.5, */*;q=0.1",
    )
}

fn fetch(client: &Client, path: &str, scope: &str, which: &Which) -> Result<Document, Cause> {
    let headers = [(header::ACCEPT, accept())];
    let answer = client.success(&Call { headers: &headers, ..Call::get(path, scope) })?;
    let header_type = bare_type(answer.header(header::CONTENT_TYPE).unwrap_or_default()).to_owned();
    let said = answer.header(CONTENT_DIGEST).map(str::to_owned);
    let bytes = answer.bytes(MAX_MANIFEST_BYTES).map_err(|e| client.or_cancelled(e))?;
    let digest = Digest::of(&bytes);
    let wrong = |expected: &str| {
        Err(Cause::WrongContent { what: format!("{} was expected, {digest} came", clean(expected)) })
    };
    match which {
        Which::Digest(wanted) if *wanted != digest => return wrong(wanted.as_str()),
        // What the registry says of its own content; other algorithms than ours can't be compared.
        Which::Tag(_)
            if said.as_deref().is_some_and(|s| s.starts_with("sha256:") && s != digest.as_str()) =>
        {
            return wrong(said.as_deref().unwrap_or_default());
        }
        _ => {}
    }
    let media_type = media_type_of(&bytes, &header_type)?;
    let size = bytes.len() as u64;
    Ok(Document { bytes, descriptor: Descriptor::new(&media_type, digest, size) })
}

/// What a document is: its own `mediaType` if it has one, which must not contradict the header; else the header; else its
/// form. One document must not be read in two ways (CVE-2021-41190).
fn media_type_of(bytes: &[u8], header: &str) -> Result<String, Cause> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Form {
        schema_version: u32,
        #[serde(default)]
        media_type: Option<String>,
        #[serde(default)]
        manifests: Option<serde::de::IgnoredAny>,
        #[serde(default)]
        layers: Option<serde::de::IgnoredAny>,
        #[serde(default)]
        config: Option<serde::de::IgnoredAny>,
    }
    let form: Form = serde_json::from_slice(bytes)
        .map_err(|e| Cause::Nonsense { what: format!("it is no manifest: {e}") })?;
    if form.schema_version == 1 || SCHEMA_1.contains(&header) {
        return Err(unsupported(SCHEMA_1[0]));
    }
    let known = |kind: &str| media::is_index(kind) || media::is_manifest(kind);
    let kind = match form.media_type.as_deref().filter(|t| !t.is_empty()) {
        Some(own) if known(header) && own != header => {
            return Err(Cause::Nonsense {
                what: format!("it is sent as {} and calls itself {}", clean(header), clean(own)),
            });
        }
        Some(own) => own,
        None if known(header) => header,
        None if form.manifests.is_some() => media::INDEX,
        None => media::MANIFEST,
    };
    let both = form.manifests.is_some() && (form.layers.is_some() || form.config.is_some());
    if both {
        return Err(Cause::Nonsense { what: "it is a manifest and an index at once".to_owned() });
    }
    if !known(kind) {
        return Err(unsupported(kind));
    }
    Ok(kind.to_owned())
}

fn unsupported(media_type: &str) -> Cause {
    let what = if media_type == SCHEMA_1[0] {
        "images of Docker's old schema 1: push the image again with a newer tool".to_owned()
    } else {
        format!("content of the type `{}`", clean(media_type))
    };
    Cause::Unsupported { what }
}

/// A media type without its parameters.
fn bare_type(header: &str) -> &str {
    header.split(';').next().unwrap_or_default().trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &str, header: &str, expected: &str) {
        let shown = media_type_of(body.as_bytes(), header).unwrap_or_else(|e| e.to_string());
        assert!(shown.contains(expected), "{body} {header}: {shown}");
    }

    #[test]
    fn a_document_is_one_thing_only() {
        let index = r#"{"schemaVersion":2,"manifests":[]}"#;
        let manifest = r#"{"schemaVersion":2,"config":{},"layers":[]}"#;
        check(index, "application/json", media::INDEX);
        check(index, media::DOCKER_MANIFEST_LIST, media::DOCKER_MANIFEST_LIST);
        check(manifest, "", media::MANIFEST);
        check(manifest, media::DOCKER_MANIFEST, media::DOCKER_MANIFEST);
        let own = format!(r#"{{"schemaVersion":2,"mediaType":"{}"}}"#, media::DOCKER_MANIFEST);
        check(&own, "text/plain", media::DOCKER_MANIFEST);
        check(&own, media::INDEX, "calls itself");
        check(r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#, "", "at once");
        check(r#"{"schemaVersion":1,"fsLayers":[]}"#, "", "schema 1");
        check(r#"{"schemaVersion":2,"mediaType":"application/x"}"#, "", "application/x");
        check("[]", "", "no manifest");
    }
}
