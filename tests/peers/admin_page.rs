//! The admin page in Chromium.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    browser::{Browser, Tab, TabOptions},
    harness::{Client, EchoServer, Folder, Tcplb, free_address, program, visit},
    needs,
};

/// Markup in the name of a backend, which a message quotes.
const MARKUP: &str = "<img src=x onerror=\"document.title='forged'\"><script></script>";

/// A process with load balancers in various states, and its page.
struct Page {
    tcplb: Tcplb,
    /// The address of the load balancer `default/postgres`.
    postgres: SocketAddr,
    _folder: Folder,
}

impl Page {
    fn start() -> Self {
        Self::with_invalid("brokers")
    }

    /// The load balancer `kafka` is invalid: the backend with this name has no addresses.
    fn with_invalid(backend: &str) -> Self {
        let (folder, postgres) = (Folder::new(), free_address());
        let servers: Vec<String> = (0..3).map(|_| EchoServer::start(None).address.to_string()).collect();
        let listener = |address: SocketAddr| json!({"port": address.port(), "address": "127.0.0.1"});
        let backends = |addresses: &[String]| json!([{"name": "servers", "addresses": addresses}]);
        let check = json!({"active": {"type": "TCP", "interval": "1s"}});
        let mut tls = listener(free_address());
        tls["tls"] = json!({"mode": "Terminate", "certificateRefs": [{"name": "web-tls"}]});
        let mut passthrough = listener(free_address());
        passthrough["tls"] = json!({"mode": "Passthrough"});
        let unreachable = [servers[0].clone(), "127.0.0.1:1".to_owned()];
        for (file, name, spec) in [
            ("postgres", "postgres", json!({"listeners": [listener(postgres)], "backends": backends(&servers)})),
            ("mqtt", "mqtt", json!({"listeners": [passthrough], "backends": backends(&servers[..1])})),
            ("web", "web", json!({"listeners": [tls], "backends": backends(&servers[1..])})),
            (
                "redis",
                "redis",
                json!({
                    "listeners": [listener(free_address())], "backends": backends(&unreachable), "healthCheck": check,
                }),
            ),
            ("invalid", "kafka", json!({"listeners": [listener(free_address())], "backends": [{"name": backend}]})),
        ] {
            let object = json!({
                "apiVersion": "tcplb.io/v1alpha1", "kind": "TcpLoadBalancer", "metadata": {"name": name}, "spec": spec,
            });
            folder.write(&format!("{file}.json"), &object.to_string());
        }
        let secret = program().args(["cert", "web.example.com", "--secret", "web-tls"]).output().unwrap();
        folder.write("secret.yaml", &String::from_utf8(secret.stdout).unwrap());
        let mut tcplb = Tcplb::standalone(&["--replica-name", "lb-1", folder.path()]).ready();
        tcplb.logged("endpoint unhealthy");
        Self { tcplb, postgres, _folder: folder }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.tcplb.admin)
    }
}

/// The expression for the names of the listed load balancers, in their order.
const NAMES: &str = "[...document.querySelectorAll('details')].map(one => one.id.replace('default/', ''))";

/// The expression for the text of a number in the line of `default/postgres`.
fn number(unit: &str) -> String {
    format!("document.getElementById('default/postgres').querySelector('[data-unit=\"{unit}\"]').textContent")
}

fn has_no_complaints(tab: &Tab) {
    assert_eq!(tab.complaints(), Vec::<String>::new());
}

#[test]
fn the_page_updates_in_place_and_keeps_its_state() {
    needs!("chromium");
    let (page, browser) = (Page::start(), Browser::start());
    let tab = browser.open(&page.url("/"), TabOptions::default());
    tab.value("window.isStillHere = true; document.getElementById('default/postgres').open = true");
    tab.value("document.querySelector('[id=\"default/postgres\"] summary').focus()");
    tab.becomes(&number("open"), "0");
    let mut client = Client::connect(page.postgres);
    client.echo("hello").unwrap();
    tab.becomes(&number("open"), "1");
    tab.becomes("document.querySelectorAll('[id=\"default/postgres\"] table')[1].rows.length", 4);
    client.finish().unwrap();
    tab.becomes(&number("open"), "0");
    // One connection within an interval of the page.
    visit(page.postgres).unwrap();
    tab.becomes("document.querySelector('[id=\"default/postgres\"] svg path') !== null", true);
    assert_eq!(tab.value("window.isStillHere && document.getElementById('default/postgres').open"), true);
    assert_eq!(tab.value("document.activeElement.parentElement.id"), "default/postgres");
    has_no_complaints(&tab);
}

#[test]
fn problems_come_first_and_markup_in_texts_is_text() {
    needs!("chromium");
    let (page, browser) = (Page::with_invalid(MARKUP), Browser::start());
    let tab = browser.open(&page.url("/"), TabOptions::default());
    let summary = tab.value("document.getElementById('summary').textContent");
    let summary = summary.as_str().unwrap();
    assert!(summary.starts_with("1 of 5 load balancers have errors, 1 have only warnings: "), "{summary}");
    let names = tab.value(NAMES);
    assert_eq!(names, json!(["kafka", "redis", "mqtt", "postgres", "web"]));
    assert_eq!(
        tab.value("[...document.querySelectorAll('details')].map(one => one.open)"),
        json!([true, true, false, false, false])
    );
    // The script has updated the page, too.
    tab.becomes(
        "performance.getEntriesByType('resource').filter(one => one.initiatorType === 'fetch').length > 1",
        true,
    );
    assert_eq!(tab.value("document.querySelectorAll('main img, main script').length"), 0);
    let text = tab.value("document.getElementById('default/kafka').textContent");
    assert!(text.as_str().unwrap().contains(MARKUP), "{text}");
    let title = tab.value("document.title");
    assert_eq!(title, "2 with problems · tcplb lb-1");
    // The link of the summary leads to the load balancer.
    tab.value("document.querySelectorAll('#summary a')[1].click()");
    assert_eq!(tab.value("document.querySelector(':target').id"), "default/redis");
    let text = tab.value("document.getElementById('default/mqtt').textContent");
    assert!(text.as_str().unwrap().contains("passthrough"), "{text}");
    let text = tab.value("document.getElementById('default/web').textContent");
    assert!(text.as_str().unwrap().contains("terminated, TLS 1.2+"), "{text}");
    has_no_complaints(&tab);
}

#[test]
fn the_page_is_searched_sorted_and_used_with_keys() {
    needs!("chromium");
    let (page, browser) = (Page::start(), Browser::start());
    let _clients = [Client::connect(page.postgres), Client::connect(page.postgres)];
    let tab = browser.open(&page.url("/"), TabOptions::default());
    tab.press("/");
    assert_eq!(tab.value("document.activeElement.name"), "q");
    tab.write("REDIS");
    tab.becomes(NAMES, json!(["redis"]));
    assert_eq!(tab.value("location.search"), "?q=REDIS");
    tab.value("document.activeElement.value = ''; document.activeElement.dispatchEvent(new Event('input'))");
    tab.becomes(&format!("{NAMES}.length"), 5);
    tab.value("document.querySelector('a[data-sort=open]').click()");
    tab.becomes(&format!("{NAMES}[0]"), "postgres");
    tab.becomes("document.querySelector('[aria-current]').textContent", "open");
    tab.value("document.activeElement.blur()");
    tab.press("j");
    tab.press("j");
    tab.press("k");
    assert_eq!(tab.value("document.activeElement.parentElement.id"), "default/postgres");
    tab.press("e");
    assert_eq!(tab.value("document.querySelectorAll('details:not([open])').length"), 0);
    tab.press("?");
    assert_eq!(tab.value("document.getElementById('help').open"), true);
    has_no_complaints(&tab);
}

#[test]
fn the_page_works_without_scripts() {
    needs!("chromium");
    let (page, browser) = (Page::start(), Browser::start());
    let options = TabOptions { scripts: false, ..TabOptions::default() };
    let tab = browser.open(&page.url("/?q=redis&sort=name"), options);
    // The page reloads itself, so each of these may meet a page that is being loaded.
    tab.becomes(NAMES, json!(["redis"]));
    tab.becomes("document.forms[0].elements.q.value", "redis");
    tab.becomes("document.forms[0].elements.sort.value", "name");
    tab.becomes("document.querySelector('button.without-script').checkVisibility()", true);
    tab.becomes("document.getElementById('show-help').checkVisibility()", false);
    let loaded = tab.value("performance.timeOrigin");
    tab.becomes(&format!("performance.timeOrigin > {loaded}"), true);
    tab.becomes("document.querySelectorAll('details[open]').length", 1);
}

#[test]
fn the_page_fits_narrow_screens_and_dark_mode() {
    needs!("chromium");
    let (page, browser) = (Page::start(), Browser::start());
    let load = Load::start(page.postgres);
    let tab = browser.open(&page.url("/"), TabOptions::default());
    let background = "getComputedStyle(document.body).backgroundColor";
    let light = tab.value(background);
    tab.value("document.getElementById('default/postgres').open = true");
    let points = if std::env::var_os("SCREENSHOTS").is_some() { 10 } else { 1 };
    let drawn = "document.querySelector('[id=\"default/postgres\"] svg path')?.getAttribute('d').split('L').length";
    tab.becomes(&format!("({drawn}) >= {points}"), true);
    tab.screenshot("admin-page");
    let options = TabOptions { dark: true, width: 360, height: 780, ..TabOptions::default() };
    let narrow = browser.open(&page.url("/"), options);
    narrow.press("e");
    assert_ne!(narrow.value(background), light);
    let overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth";
    for tab in [&tab, &narrow] {
        assert_eq!(tab.value(overflow), 0);
        has_no_complaints(tab);
    }
    narrow.press("c");
    narrow.becomes(&format!("({drawn}) >= {points}"), true);
    narrow.screenshot("admin-page-narrow");
    drop(load);
}

#[test]
fn details_of_a_large_installation_are_fetched_when_they_are_expanded() {
    needs!("chromium");
    let folder = Folder::new();
    folder.write("all.json", &many(500, 20).to_string());
    let tcplb = Tcplb::standalone(&[folder.path()]).ready();
    let browser = Browser::start();
    let tab = browser.open(&format!("http://{}/", tcplb.admin), TabOptions::default());
    assert_eq!(tab.value("document.querySelectorAll('details').length"), 500);
    let last = "[...document.querySelectorAll('details')].at(-1)";
    assert_eq!(tab.value(&format!("{last}.querySelectorAll('table').length")), 0);
    tab.value(&format!("{last}.open = true; {last}.scrollIntoView()"));
    tab.becomes(&format!("{last}.querySelectorAll('table')[1]?.rows.length"), 21);
    let size = tab.value("performance.getEntriesByType('resource').at(-1).decodedBodySize");
    assert!(size.as_u64().unwrap() < 1 << 20, "an update has {size} bytes");
    has_no_complaints(&tab);
}

/// A list of load balancers without listeners that conflict, each with this many endpoints.
fn many(load_balancers: usize, endpoints: usize) -> Value {
    let items = (0..load_balancers).map(|number| {
        let addresses: Vec<String> =
            (0..endpoints).map(|endpoint| format!("127.{}.{}.{}:9", 1 + number / 250, number % 250, 1 + endpoint)).collect();
        json!({
            "apiVersion": "tcplb.io/v1alpha1", "kind": "TcpLoadBalancer", "metadata": {"name": format!("lb-{number:03}")},
            "spec": {
                "listeners": [{"port": 5432, "address": format!("127.9.{}.{}", number / 250, 1 + number % 250)}],
                "backends": [{"name": "servers", "addresses": addresses}],
                "healthCheck": {"active": {"type": "None"}},
            },
        })
    });
    json!({"apiVersion": "v1", "kind": "List", "items": items.collect::<Vec<_>>()})
}

/// Clients that connect again and again. Dropping it ends them.
struct Load {
    stop: Arc<AtomicBool>,
    client: Option<thread::JoinHandle<()>>,
}

impl Load {
    fn start(address: SocketAddr) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let stopped = stop.clone();
        let client = thread::spawn(move || {
            while !stopped.load(Relaxed) {
                visit(address).unwrap();
                thread::sleep(Duration::from_millis(fastrand::u64(5..120)));
            }
        });
        Self { stop, client: Some(client) }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(client) = self.client.take() {
            client.join().unwrap();
        }
    }
}
