//! The page of an analysis: one file that loads nothing. All that comes from the image is data in a script block, with
//! every `<` written as an escape, and is put into the page as text, never as markup.

use anyhow::Result;
use sampan_docker_api::store::Analysis;

const PAGE: &str = include_str!("page.html");

/// The whole page.
pub(super) fn of(analysis: &Analysis) -> Result<String> {
    // Neither `</script>` nor `<!--` can come up then; the two separators end a line in old JavaScript.
    let data = serde_json::to_string(analysis)?
        .replace('<', "\\u003c")
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029");
    Ok(PAGE.replace("/*DATA*/null", &data))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sampan_docker_api::store::LayerAnalysis;

    #[test]
    fn names_of_the_image_stay_data() {
        let evil = "</script><script>alert(1)</script><!--";
        let layer = LayerAnalysis { created_by: evil.to_owned(), ..LayerAnalysis::default() };
        let page = of(&Analysis { names: vec![evil.to_owned()], layers: vec![layer], ..Analysis::default() });
        let page = page.unwrap();
        assert_eq!(page.matches("<script").count(), PAGE.matches("<script").count());
        assert!(!page.contains("<!--") && page.contains("\\u003c/script>"));
        assert!(!page.contains("/*DATA*/"));
        for outside in ["http://", "https://", "src=", "@import", "url("] {
            assert!(!PAGE.contains(outside), "the page must load nothing: {outside}");
        }
    }
}
