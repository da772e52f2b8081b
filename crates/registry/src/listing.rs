//! What a repository has: its tags, page by page, and what refers to one of its manifests.

use http::header;
use sampan_base::Digest;
use sampan_oci::image::{Descriptor, Index};
use serde::Deserialize;

use crate::client::{Call, Client, Target};
use crate::error::{Cause, RegistryError, clean};
use crate::exchange::{Answer, encode};
use crate::limits::{MAX_MANIFEST_BYTES, MAX_PAGES, MAX_TAGS_PAGE_BYTES, TAGS_PER_PAGE};
use crate::repository::{Repository, Which};

impl Repository {
    /// All tags, in the order of whoever answers: a mirror first.
    ///
    /// # Errors
    /// If there is no such repository, or the registry leads in a circle.
    pub fn tags(&self) -> Result<Vec<String>, RegistryError> {
        #[derive(Deserialize)]
        struct Page {
            tags: Option<Vec<String>>,
        }
        let path = self.inner.path(&format!("tags/list?n={TAGS_PER_PAGE}"));
        let scope = self.inner.pull_scope();
        let (_, tags) = self.inner.first(&format!("list the tags of {}", self.inner.name), |client| {
            let mut tags = Vec::new();
            pages(client, &path, &scope, |answer| {
                let page: Page = parse(&answer.bytes(MAX_TAGS_PAGE_BYTES)?)?;
                tags.extend(page.tags.unwrap_or_default());
                Ok(())
            })?;
            Ok(tags)
        })?;
        Ok(tags)
    }

    /// What refers to the manifest `digest`: signatures, attestations and the like. A registry without the API for it has
    /// them in an index with a tag made of the digest.
    ///
    /// # Errors
    /// If the registry does not answer, or not in sense.
    pub fn referrers(
        &self,
        digest: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>, RegistryError> {
        let client = self.inner.own();
        let failed = || client.failed(format!("list what refers to {}@{digest}", self.inner.name));
        let wanted = artifact_type.map(|t| format!("?artifactType={}", encode(t))).unwrap_or_default();
        let path = self.inner.path(&format!("referrers/{digest}{wanted}"));
        let scope = self.inner.pull_scope();
        let mut found: Vec<Descriptor> = Vec::new();
        let read = pages(client, &path, &scope, |answer| {
            let index: Index = parse(&answer.bytes(MAX_MANIFEST_BYTES)?)?;
            found.extend(index.manifests);
            Ok(())
        });
        match read {
            Ok(()) => {}
            Err(Cause::Refused(refusal)) if refusal.status == 404 => found = self.tagged_referrers(digest)?,
            Err(cause) => return Err(failed()(cause)),
        }
        // A registry may leave the filter to us.
        let fits = |d: &Descriptor| match artifact_type {
            Some(wanted) => d.other.get("artifactType").and_then(|t| t.as_str()) == Some(wanted),
            None => true,
        };
        found.retain(fits);
        Ok(found)
    }

    fn tagged_referrers(&self, digest: &Digest) -> Result<Vec<Descriptor>, RegistryError> {
        let tag = format!("sha256-{}", digest.hex());
        let document = match self.document(&Which::Tag(tag)) {
            Ok(document) => document,
            Err(error) if error.refusal().is_some_and(|r| r.status == 404) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let client = self.inner.own();
        let failed = || client.failed(format!("list what refers to {}@{digest}", self.inner.name));
        let index: Index = parse(&document.bytes).map_err(|e| failed()(e))?;
        Ok(index.manifests)
    }
}

fn parse<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, Cause> {
    serde_json::from_slice(bytes).map_err(|e| Cause::Nonsense { what: clean(&e.to_string()) })
}

/// Reads page after page, as the `Link` headers lead.
fn pages(
    client: &Client,
    path: &str,
    scope: &str,
    mut page: impl FnMut(Answer) -> Result<(), Cause>,
) -> Result<(), Cause> {
    let mut uri = client.uri(&Target::Path(path))?;
    for _ in 0..MAX_PAGES {
        let call = Call { target: Target::Given(uri.clone()), ..Call::get("", scope) };
        let answer = client.success(&call)?;
        let link = answer.header(header::LINK).and_then(next_link).map(str::to_owned);
        page(answer)?;
        match link {
            None => return Ok(()),
            Some(link) => uri = client.location(&uri, &link)?,
        }
    }
    Err(Cause::Nonsense { what: format!("a listing of more than {MAX_PAGES} pages") })
}

/// The address in `</v2/x/tags/list?last=b>; rel="next"`.
fn next_link(header: &str) -> Option<&str> {
    header.split(',').find_map(|link| {
        let (address, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
        let next = parameters.split(';').any(|p| matches!(p.trim(), r#"rel="next""# | "rel=next"));
        next.then_some(address)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_what_the_link_says() {
        assert_eq!(next_link(r#"</v2/x?n=2&last=b>; rel="next""#), Some("/v2/x?n=2&last=b"));
        assert_eq!(next_link("<a>; rel=prev, <b>; rel=next"), Some("b"));
        assert_eq!(next_link("<a>"), None);
        assert_eq!(next_link("nonsense"), None);
    }
}
