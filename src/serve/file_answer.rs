//! Answers with a file or a part of it. Source: RFC 9110, sections 8, 13 and 14.

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use httpdate::{fmt_http_date, parse_http_date};
use hyper::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap, HeaderName,
    HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED, RANGE,
};
use hyper::{Response, StatusCode};

use super::file_body::{self, Body};
use super::limits::Pace;

/// Latest time that a date has, so that it can be written as HTTP does: the end of the year 9999.
const LATEST: u64 = 253_402_300_799;

/// The facts that are known of a file before it is opened.
#[derive(Debug)]
pub(super) struct Representation {
    pub(super) size: u64,
    /// The same for the same bytes only, without quotation marks.
    pub(super) etag: String,
    /// Seconds since the epoch. `None`: unknown, or the same for other bytes.
    pub(super) modified: Option<u64>,
    /// Whether files with other bytes surely have another date.
    pub(super) date_is_exact: bool,
    pub(super) media_type: &'static str,
    pub(super) caching: &'static str,
}

/// The part of a file that a request gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SelectedContent {
    Whole,
    Part(Range<u64>),
    NotModified,
    /// The requested range is beyond the end.
    BeyondEnd,
}

impl Representation {
    fn quoted_etag(&self) -> String {
        format!("\"{}\"", self.etag)
    }

    fn date(&self) -> Option<SystemTime> {
        Some(UNIX_EPOCH + Duration::from_secs(self.modified?.min(LATEST)))
    }

    /// The answer to a GET or HEAD with these headers.
    pub(super) fn select(&self, headers: &HeaderMap) -> SelectedContent {
        let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let is_known = match text(IF_NONE_MATCH) {
            Some(etags) => self.is_among(etags),
            // The date of the server has whole seconds.
            None => text(IF_MODIFIED_SINCE)
                .and_then(|date| parse_http_date(date).ok())
                .is_some_and(|date| self.date().is_some_and(|own| own <= date)),
        };
        if is_known {
            return SelectedContent::NotModified;
        }
        let is_same = |validator: &str| {
            let is_date = || parse_http_date(validator).is_ok_and(|date| self.date() == Some(date));
            validator == self.quoted_etag() || self.date_is_exact && is_date()
        };
        match text(RANGE) {
            Some(range) if text(IF_RANGE).is_none_or(is_same) => self.range(range),
            _ => SelectedContent::Whole,
        }
    }

    fn is_among(&self, etags: &str) -> bool {
        let own = self.quoted_etag();
        etags.split(',').map(str::trim).any(|etag| etag == "*" || etag.trim_start_matches("W/") == own)
    }

    /// The part that a Range header names. A header that is no single range of bytes is ignored, as
    /// a server may do.
    fn range(&self, header: &str) -> SelectedContent {
        let number =
            |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u64>().ok()).flatten();
        let Some((first, last)) = header.strip_prefix("bytes=").and_then(|range| range.trim().split_once('-')) else {
            return SelectedContent::Whole;
        };
        let part = match (first, last) {
            ("", last) => number(last).map(|length| self.size.saturating_sub(length)..self.size),
            (first, "") => number(first).map(|first| first..self.size),
            (first, last) => match (number(first), number(last)) {
                (Some(first), Some(last)) if first <= last => Some(first..last.saturating_add(1).min(self.size)),
                _ => None,
            },
        };
        match part {
            None => SelectedContent::Whole,
            Some(part) if part.start >= part.end => SelectedContent::BeyondEnd,
            Some(part) => SelectedContent::Part(part),
        }
    }

    /// The answer. `file`: `None` for HEAD, and where nothing of it is sent.
    pub(super) fn answer(
        &self,
        selection: &SelectedContent,
        file: Option<Arc<File>>,
        pace: &Arc<Pace>,
    ) -> Response<Body> {
        let (status, part) = match selection {
            SelectedContent::Whole => (StatusCode::OK, 0..self.size),
            SelectedContent::Part(part) => (StatusCode::PARTIAL_CONTENT, part.clone()),
            SelectedContent::NotModified => (StatusCode::NOT_MODIFIED, 0..0),
            SelectedContent::BeyondEnd => (StatusCode::RANGE_NOT_SATISFIABLE, 0..0),
        };
        let length = part.end - part.start;
        let body = match file.filter(|_| length > 0) {
            Some(file) => file_body::part(file, part.clone(), pace.send()),
            None => file_body::text(""),
        };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        let mut set = |name: HeaderName, value: String| {
            if let Ok(value) = HeaderValue::try_from(value) {
                response.headers_mut().insert(name, value);
            }
        };
        set(ETAG, self.quoted_etag());
        if let Some(date) = self.date() {
            set(LAST_MODIFIED, fmt_http_date(date));
        }
        set(CACHE_CONTROL, self.caching.to_owned());
        set(ACCEPT_RANGES, "bytes".to_owned());
        match selection {
            SelectedContent::NotModified => {}
            SelectedContent::BeyondEnd => set(CONTENT_RANGE, format!("bytes */{}", self.size)),
            SelectedContent::Whole | SelectedContent::Part(_) => {
                set(CONTENT_TYPE, self.media_type.to_owned());
                set(CONTENT_LENGTH, length.to_string());
            }
        }
        if let SelectedContent::Part(part) = selection {
            set(CONTENT_RANGE, format!("bytes {}-{}/{}", part.start, part.end - 1, self.size));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Representation {
        Representation {
            size: 10,
            etag: "e1".to_owned(),
            modified: Some(1_000_000_000),
            date_is_exact: true,
            media_type: "x/y",
            caching: "no-cache",
        }
    }

    fn select(headers: &[(HeaderName, &str)]) -> SelectedContent {
        let headers = headers.iter().map(|(name, value)| (name.clone(), value.parse().unwrap()));
        facts().select(&HeaderMap::from_iter(headers))
    }

    #[test]
    fn ranges() {
        for (range, expected) in [
            ("bytes=0-9", SelectedContent::Part(0..10)),
            ("bytes=3-", SelectedContent::Part(3..10)),
            ("bytes=3-3", SelectedContent::Part(3..4)),
            ("bytes=3-99999999999999999999", SelectedContent::Whole),
            ("bytes=3-18446744073709551615", SelectedContent::Part(3..10)),
            ("bytes=-4", SelectedContent::Part(6..10)),
            ("bytes=-40", SelectedContent::Part(0..10)),
            ("bytes=-0", SelectedContent::BeyondEnd),
            ("bytes=10-", SelectedContent::BeyondEnd),
            ("bytes=10-20", SelectedContent::BeyondEnd),
            ("bytes=4-3", SelectedContent::Whole),
            ("bytes=0-1,3-4", SelectedContent::Whole),
            ("bytes=+1-2", SelectedContent::Whole),
            ("bytes=-", SelectedContent::Whole),
            ("bytes=", SelectedContent::Whole),
            ("lines=0-1", SelectedContent::Whole),
        ] {
            assert_eq!(select(&[(RANGE, range)]), expected, "{range}");
        }
    }

    #[test]
    fn conditions() {
        let (date, earlier, later) =
            ("Sun, 09 Sep 2001 01:46:40 GMT", "Sun, 09 Sep 2001 01:46:39 GMT", "Sun, 09 Sep 2001 01:46:41 GMT");
        for (header, value, known) in [
            (IF_NONE_MATCH, "\"e1\"", true),
            (IF_NONE_MATCH, "\"e0\", W/\"e1\"", true),
            (IF_NONE_MATCH, "*", true),
            (IF_NONE_MATCH, "\"e2\"", false),
            (IF_NONE_MATCH, "e1", false),
            (IF_MODIFIED_SINCE, date, true),
            (IF_MODIFIED_SINCE, later, true),
            (IF_MODIFIED_SINCE, earlier, false),
            (IF_MODIFIED_SINCE, "yesterday", false),
        ] {
            let expected = if known { SelectedContent::NotModified } else { SelectedContent::Whole };
            assert_eq!(select(&[(header.clone(), value)]), expected, "{header} {value}");
        }
        // The ETag counts, if there is one.
        assert_eq!(select(&[(IF_NONE_MATCH, "\"e2\""), (IF_MODIFIED_SINCE, date)]), SelectedContent::Whole);
        for (validator, part) in
            [("\"e1\"", true), (date, true), ("\"e2\"", false), ("W/\"e1\"", false), (later, false)]
        {
            let expected = if part { SelectedContent::Part(1..3) } else { SelectedContent::Whole };
            assert_eq!(select(&[(RANGE, "bytes=1-2"), (IF_RANGE, validator)]), expected, "{validator}");
        }
    }

    #[test]
    fn a_date_that_other_bytes_have_too_proves_nothing() {
        let date = "Sun, 09 Sep 2001 01:46:40 GMT";
        let headers = |all: &[(HeaderName, &str)]| {
            HeaderMap::from_iter(all.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())))
        };
        let part = headers(&[(RANGE, "bytes=1-2"), (IF_RANGE, date)]);
        let package = Representation { date_is_exact: false, ..facts() };
        assert_eq!(package.select(&part), SelectedContent::Whole);
        assert_eq!(package.select(&headers(&[(IF_MODIFIED_SINCE, date)])), SelectedContent::NotModified);
        let undated = Representation { modified: None, ..package };
        assert_eq!(undated.select(&headers(&[(IF_MODIFIED_SINCE, date)])), SelectedContent::Whole);
        let answer = undated.answer(&SelectedContent::Whole, None, &Arc::default());
        assert!(!answer.headers().contains_key(LAST_MODIFIED) && answer.headers().contains_key(ETAG));
    }

    #[test]
    fn headers_of_an_answer() {
        let answer = |selection| facts().answer(&selection, None, &Arc::default());
        let header = |response: &Response<Body>, name: HeaderName| {
            response.headers().get(name).map(|value| value.to_str().unwrap().to_owned())
        };
        let whole = answer(SelectedContent::Whole);
        assert_eq!((whole.status().as_u16(), header(&whole, CONTENT_LENGTH).as_deref()), (200, Some("10")));
        assert_eq!(header(&whole, LAST_MODIFIED).as_deref(), Some("Sun, 09 Sep 2001 01:46:40 GMT"));
        let part = answer(SelectedContent::Part(2..5));
        assert_eq!((part.status().as_u16(), header(&part, CONTENT_RANGE).as_deref()), (206, Some("bytes 2-4/10")));
        assert_eq!(header(&part, CONTENT_LENGTH).as_deref(), Some("3"));
        let beyond = answer(SelectedContent::BeyondEnd);
        assert_eq!((beyond.status().as_u16(), header(&beyond, CONTENT_RANGE).as_deref()), (416, Some("bytes */10")));
        let known = answer(SelectedContent::NotModified);
        assert_eq!((known.status().as_u16(), header(&known, ETAG).as_deref()), (304, Some("\"e1\"")));
        let far = Representation { modified: Some(u64::MAX), ..facts() };
        assert!(far.answer(&SelectedContent::Whole, None, &Arc::default()).headers().contains_key(LAST_MODIFIED));
    }
}
