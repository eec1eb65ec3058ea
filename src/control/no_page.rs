//! Stands in for the page in a program that is built without: a line says where the status is.

use crate::api::Status;

pub(super) const MEDIA_TYPE: &str = "text/plain; charset=utf-8";
/// The content security policy. Nothing here is for a browser.
pub(super) const POLICY: &str = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// The style sheet, of nothing.
pub(super) const STYLE: &str = "";

/// The text in place of the page.
pub(super) fn render(_: &Status) -> String {
    "This binhostfs was built without the status page (cargo's feature page).\n\
     The status is at /v1/status, metrics are at /metrics, and `binhostfs status` prints the status.\n"
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::double::status;
    use super::*;

    #[test]
    fn the_text_says_where_the_status_is() {
        let text = render(&status());
        assert!(text.contains("/v1/status") && text.contains("cargo's feature page"), "{text}");
    }
}
