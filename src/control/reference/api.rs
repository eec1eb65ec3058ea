//! The page docs/reference/api.md, made from the table of routes.

use std::fmt::Write as _;

use super::super::double::Double;
use super::super::query::{Parameter, Times};
use super::super::routes::{Endpoint, Route, Sides};
use super::super::server::{HEADER_TIMEOUT, MAX_CONNECTIONS};
use super::super::tcp::CONNECTION_TIMEOUT;
use crate::api::ErrorCode;

const ERRORS: &str = "
## Errors

The status of an error is not 200, and its body says what is wrong, for people (`error`) and for
programs (`code`): `{\"error\": \"job=NUMBER is missing\", \"code\": \"bad-request\"}`.

| code | status | meaning |
|---|---|---|
";

fn head() -> String {
    let (head, tcp) = (HEADER_TIMEOUT.as_secs(), CONNECTION_TIMEOUT.as_secs());
    format!(
        "\
# API

<!-- Made from the table in src/control/routes.rs: the test `the_reference_is_current` writes it. -->

The daemon answers HTTP/1.1 on its control socket. The commands use this API, and other programs
can, too:

```text
curl --unix-socket /run/binhostfs/control.sock 'http://x/v1/packages?atom=dev-lang/rust'
```

- Answers are JSON. `/v1` changes only compatibly: requests, parameters and fields are added, and
  none changes its meaning. Clients ignore fields that they do not know.
- Values of parameters are percent-encoded. A parameter that a request does not take is an error.
- A connection serves one request. At most {MAX_CONNECTIONS} connections are served at the same time on each
  side, and more wait. The head of a request must arrive within {head} s.
- The socket belongs to the user who started the daemon (mode 0600). With `control-group`, the
  members of that group may use it, too (mode 0660).
- With `listen`, some requests are also served over TCP. They only read, need no password, and are
  not encrypted. A connection ends after {tcp} s there.

## Requests
"
    )
}

fn page() -> String {
    let mut page = head();
    for Route { endpoint, .. } in Route::<Double>::ALL {
        request(&mut page, endpoint);
    }
    page.push_str(ERRORS);
    for (code, meaning) in ErrorCode::ALL {
        let name = serde_json::to_value(code).unwrap();
        writeln!(page, "| `{}` | {} |{meaning} |", name.as_str().unwrap(), code.status()).unwrap();
    }
    page
}

fn request(page: &mut String, endpoint: &Endpoint) {
    let Endpoint { method, path, parameters, sides, doc } = endpoint;
    let over_tcp = if *sides == Sides::SocketAndTcp { " Also over TCP." } else { "" };
    let doc: Vec<&str> = doc.lines().map(str::trim).collect();
    write!(page, "\n### `{method} {path}`\n\n{}{over_tcp}\n", doc.join("\n")).unwrap();
    if !parameters.is_empty() {
        page.push_str("\n| parameter | times | meaning |\n|---|---|---|\n");
    }
    for Parameter { name, value, times, doc } in *parameters {
        let times = match times {
            Times::Optional => "0 or 1".to_owned(),
            Times::Required => "1".to_owned(),
            Times::Any => "any".to_owned(),
            Times::UpTo(most) => format!("1 to {most}"),
        };
        let doc: Vec<&str> = doc.lines().map(str::trim).collect();
        writeln!(page, "| `{name}={value}` | {times} | {} |", doc.join(" ")).unwrap();
    }
}

#[test]
fn the_reference_is_current() {
    super::hold_current("api.md", &page());
}
