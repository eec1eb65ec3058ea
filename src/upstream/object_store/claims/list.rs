//! A list of the claims of one package, as the store sends it.

use std::time::SystemTime;

use super::{CANDIDATE, DEAD, DIRECTORY, MAX_CLAIMS, NUMBER_LENGTH, OWNER};
use crate::upstream::object_store::signature::MONTHS;

/// The ids of the claims in a list.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ListedClaims {
    pub(super) alive: Vec<String>,
    pub(super) dead: Vec<String>,
}

impl ListedClaims {
    /// The claims of the package `key` that are in the list of `date`, and no more than
    /// [`MAX_CLAIMS`] of them. `None`: the text is no list, or not all of it.
    ///
    /// <https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html>
    pub(super) fn parse(text: &str, key: &str, date: Option<SystemTime>) -> Option<Self> {
        let (objects, _) = text.split_once("</ListBucketResult>")?;
        let directory = format!("{DIRECTORY}/{key}");
        let mut listed = Self::default();
        for object in objects.split("<Contents>").skip(1).take(MAX_CLAIMS) {
            let value = |name: &str| {
                let (_, rest) = object.split_once(&format!("<{name}>"))?;
                rest.split_once('<').map(|(value, _)| value)
            };
            let (Some(name), Some(modified)) = (value("Key"), value("LastModified")) else { continue };
            let Some((before, id)) = name.rsplit_once('/') else { continue };
            if !before.ends_with(&directory) || !is_claim(id) {
                continue;
            }
            let age = date.zip(time_of(modified)).and_then(|(now, modified)| now.duration_since(modified).ok());
            let is_dead = age.is_some_and(|age| age >= DEAD);
            if is_dead { &mut listed.dead } else { &mut listed.alive }.push(id.to_owned());
        }
        Some(listed)
    }
}

fn is_claim(id: &str) -> bool {
    let number = id.strip_prefix(OWNER).or_else(|| id.strip_prefix(CANDIDATE));
    let is_digit = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    number.is_some_and(|number| number.len() == NUMBER_LENGTH && number.bytes().all(is_digit))
}

/// The time that a text like `2009-10-12T17:50:30.000Z` has, in whole seconds.
fn time_of(text: &str) -> Option<SystemTime> {
    let (date, time) = text.split_once('T')?;
    let [year, month, day] = date.split('-').collect::<Vec<_>>().try_into().ok()?;
    let (month, time) = (MONTHS.get(month.parse::<usize>().ok()?.checked_sub(1)?)?, time.get(..8)?);
    // Only the right day of the week is taken.
    let of_week = |weekday| httpdate::parse_http_date(&format!("{weekday}, {day} {month} {year} {time} GMT")).ok();
    ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"].into_iter().find_map(of_week)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: usize) -> String {
        format!("owner-{number:0NUMBER_LENGTH$x}")
    }

    fn object(name: &str, modified: &str) -> String {
        format!("<Contents><Key>p/claims/{name}</Key><LastModified>{modified}</LastModified></Contents>")
    }

    fn list(objects: &str) -> String {
        format!("<ListBucketResult><Name>b</Name><Prefix>p/claims/k/</Prefix>{objects}</ListBucketResult>")
    }

    fn date() -> Option<SystemTime> {
        httpdate::parse_http_date("Fri, 24 May 2013 00:00:08 GMT").ok()
    }

    #[test]
    fn a_list_says_which_claims_are_dead() {
        let (first, third) = (id(1), id(0xf3));
        let second = id(2).replace(OWNER, CANDIDATE);
        let object = |id: &str, modified| object(&format!("k/{id}"), modified);
        let text = list(
            &[
                object(&first, "2013-05-24T00:00:03.999Z"),
                object(&second, "2013-05-23T23:59:59.100Z"),
                object(&third, "2013-05-24T00:09:00Z"),
            ]
            .concat(),
        );
        let parse = |text: &str, date| ListedClaims::parse(text, "k", date);
        let (alive, dead) = (vec![first.clone(), third.clone()], vec![second.clone()]);
        assert_eq!(parse(&text, date()), Some(ListedClaims { alive, dead }));
        let alive = vec![first, second, third];
        assert_eq!(parse(&text, None), Some(ListedClaims { alive, dead: Vec::new() }), "no age is known");
        let empty = "<ListBucketResult xmlns=\"x\"></ListBucketResult>";
        assert_eq!(parse(empty, date()), Some(ListedClaims::default()));
        assert_eq!(ListedClaims::parse(&text, "l", date()), Some(ListedClaims::default()), "another package");
        for none in ["", "<html>Please sign in</html>", &text[..text.len() - 3]] {
            assert_eq!(parse(none, date()), None, "{none}");
        }
        for bad in
            ["", "2013-05-24", "2013-13-24T00:00:00Z", "2013-05-24T00", "x-05-24T00:00:00Z", "2013-00-24T00:00:00Z"]
        {
            assert_eq!(time_of(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_list_leads_to_no_more_than_its_claims() {
        let old = "2013-05-23T00:00:00Z";
        let all: String = (0..4000).map(|number| object(&format!("k/{}", id(number)), old)).collect();
        let listed = ListedClaims::parse(&list(&all), "k", date()).unwrap();
        assert_eq!((listed.alive.len(), listed.dead.len()), (0, MAX_CLAIMS));
        for name in [
            format!("k/{}0", id(1)),
            format!("k/{}", id(1).replace("01", "1")),
            format!("k/{}", id(1).replace("01", "0A")),
            format!("k/{}", id(1).replace("01", "é")),
            format!("k/{}", id(1).replace(OWNER, "")),
            format!("k/owner-{}", "0".repeat(4000)),
            format!("k/x/{}", id(1)),
            format!("other/{}", id(1)),
            id(1),
            "k/..".to_owned(),
            "k/owner-".to_owned(),
            String::new(),
        ] {
            let listed = ListedClaims::parse(&list(&object(&name, old)), "k", date());
            assert_eq!(listed, Some(ListedClaims::default()), "{name}");
        }
    }
}
