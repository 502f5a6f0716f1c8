//! The page of the lab, in headless Chromium with chromedriver.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::check::incarnation;
use crate::common::{Patience, chaos, place};
use crate::viewer::{Lab, agent, held};

/// The key under which WebDriver returns an element's id.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A running browser, which ends with the test.
struct Browser {
    driver: Child,
    agent: ureq::Agent,
    session: String,
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver closes its browser when the session ends.
        let _ = self.agent.delete(&self.session).call();
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// Returns `true` if a browser is installed. Otherwise writes a message that the test harness does
/// not capture.
fn is_there() -> bool {
    let runs = |program: &str| {
        let version = Command::new(program).arg("--version").output();
        version.is_ok_and(|output| output.status.success())
    };
    let missing: Vec<&str> = ["chromium", "chromedriver"]
        .into_iter()
        .filter(|program| !runs(program))
        .collect();
    if missing.is_empty() {
        return true;
    }
    let must = std::env::var_os("LOCKMESH_BROWSER_TESTS").is_some_and(|word| word == "must");
    assert!(!must, "missing: {}", missing.join(", "));
    let missing = missing.join(" and ");
    let words = format!("\nSKIPPED: the lab in a browser was not tested, for want of {missing}\n");
    std::io::stderr().write_all(words.as_bytes()).unwrap();
    false
}

impl Browser {
    fn start() -> Self {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let mut words = lines.map(Result::unwrap);
        let port = words.find_map(|line| {
            let (_, port) = line.rsplit_once("successfully on port ")?;
            port.trim_end_matches('.').parse::<u16>().ok()
        });
        let base = format!("http://127.0.0.1:{}/session", port.unwrap());
        // Read on, or the driver would block on a full pipe.
        std::thread::spawn(move || words.for_each(drop));
        let mut browser = Self {
            driver,
            agent: agent(),
            session: base.clone(),
        };
        let args = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--window-size=1280,1000",
        ];
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "goog:chromeOptions": {"args": args},
            "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let session = browser.post("", &wanted);
        browser.session = format!("{base}/{}", session["sessionId"].as_str().unwrap());
        browser
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        let request = self.agent.post(format!("{}{path}", self.session));
        let mut answer = request.send_json(body).unwrap();
        let told: Value = answer.body_mut().read_json().unwrap();
        assert!(answer.status().is_success(), "{path} {body}: {told}");
        told["value"].clone()
    }

    fn click(&self, selector: &str) {
        let found = self.post(
            "/element",
            &json!({"using": "css selector", "value": selector}),
        );
        let id = found[ELEMENT].as_str().unwrap();
        self.post(&format!("/element/{id}/click"), &json!({}));
    }

    fn press(&self, key: &str) {
        let press = json!([{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]);
        let keys = json!({"actions": [{"type": "key", "id": "keys", "actions": press}]});
        self.post("/actions", &keys);
    }

    /// Returns the value of a script.
    fn eval(&self, script: &str) -> Value {
        self.post("/execute/sync", &json!({"script": script, "args": []}))
    }

    fn text(&self, selector: &str) -> String {
        let script = format!("return document.querySelector({selector:?})?.textContent ?? ''");
        self.eval(&script).as_str().unwrap().to_owned()
    }

    fn until(&self, selector: &str, words: &[&str]) {
        let mut patience = Patience::new();
        loop {
            let text = self.text(selector);
            if words.iter().all(|word| text.contains(word)) {
                return;
            }
            let log = self.text("#log");
            let what = format!("{selector} is to say {words:?}, and says {text:?}; {log}");
            patience.sleep(&what);
        }
    }

    /// Checks that the browser logged no error of the page.
    fn complains_not(&self) {
        let said = self.post("/se/log", &json!({"type": "browser"}));
        assert_eq!(said, json!([]), "the page complains");
    }

    /// Waits until `wanted` elements match the selector.
    fn count(&self, selector: &str, wanted: u64) {
        let mut patience = Patience::new();
        let script = format!("return document.querySelectorAll({selector:?}).length");
        loop {
            let found = self.eval(&script).as_u64().unwrap();
            if found == wanted {
                return;
            }
            patience.sleep(&format!("{found} of {selector}, and not {wanted}"));
        }
    }
}

#[test]
fn browser_shows_cut_holder_losing_lock_before_takeover() {
    if !is_there() {
        return;
    }
    let (lab, page) = (Lab::start(), Browser::start());
    page.post("/url", &json!({"url": format!("http://{}/", lab.addr)}));
    page.until("#head", &["Nobody holds a lock"]);
    page.click("#node-3");
    page.click("#acquire");
    page.until("#locks tbody", &["invoice/42", "n3", "e1"]);
    page.click("#node-1");
    page.click("#acquire");
    page.until("#locks tbody tr td:last-child span", &["n1"]);
    for link in ["#link-0-3", "#link-1-3", "#link-2-3", "#link-3-4"] {
        page.click(link);
    }
    page.count(".link.cut", 4);
    page.until("#log .lost", &["n3 lost invoice/42 (e1)"]);
    page.until("#head", &["n1 took over invoice/42 at e2"]);
    page.until("#locks tbody tr", &["n1", "e2"]);
    page.until("#time .lost", &["lost"]);
    page.count("#eye-0-3.dead", 1);
    page.count(".node.side1", 1);
    let state = lab.state();
    assert!(held(&state, 3).1.unwrap() <= held(&state, 1).0, "{state}");
    page.click("#link-0-3");
    page.count(".link.cut", 3);
    page.click("#heal");
    page.count(".link.cut", 0);
    page.count("#eyes .dead", 0);
    page.click("#release");
    page.until("#log", &["n1 releases invoice/42"]);
    page.until("#counts", &["2 grants", "1 lost", "never two holders"]);
    page.press("-");
    page.until("#pause", &["go on"]);
    page.press("p");
    page.until("#pause", &["pause"]);
    page.complains_not();
}

#[test]
fn browser_controls_nodes_by_buttons_and_keys() {
    if !is_there() {
        return;
    }
    let (lab, page) = (Lab::start(), Browser::start());
    page.post("/url", &json!({"url": format!("http://{}/", lab.addr)}));
    page.until("#head", &["Nobody holds a lock"]);
    page.click("#node-2");
    page.click("#freeze");
    page.count("#node-2.frozen", 1);
    page.click("#freeze");
    page.count("#node-2.running", 1);
    page.press("4");
    page.until("#chosen", &["n4"]);
    page.press("c");
    page.count("#node-4.down", 1);
    page.count("#acquire:disabled", 1);
    page.click("#crash");
    page.count("#node-4.running.quarantine", 1);
    page.eval(
        "const it = document.querySelector('#loss'); it.value = 30; \
         it.dispatchEvent(new Event('change'))",
    );
    page.until("#loss-told", &["30 %"]);
    page.press("h");
    page.until("#loss-told", &["0 %"]);
}

#[test]
fn browser_plays_split_brain_to_its_end() {
    if !is_there() {
        return;
    }
    let (lab, page) = (Lab::start(), Browser::start());
    page.post("/url", &json!({"url": format!("http://{}/", lab.addr)}));
    page.until("#head", &["Nobody holds a lock"]);
    page.click("#show");
    page.until("#step", &["5 of 5"]);
    page.until(
        "#log",
        &["n3 lost invoice/42 (e1)", "n1 takes over invoice/42 at e2"],
    );
    page.until("#locks tbody", &["invoice/42", "n3", "e3"]);
    page.click("#release");
    page.count("#step:empty", 1);
}

/// The file that `chaos check` writes. The page of a simulation has the same format.
#[test]
fn browser_shows_two_holders_of_recorded_histories() {
    if !is_there() {
        return;
    }
    let dir = place("browser-report");
    let [a, b, file] = ["a.jsonl", "b.jsonl", "report.html"].map(|name| dir.join(name));
    // n2 holds `k` from 20 to 50 ns, and n1 from 10 to 30.
    fs::write(&a, incarnation("n1", 10, 30, 7)).unwrap();
    fs::write(&b, incarnation("n2", 20, 50, 8)).unwrap();
    let check = chaos(&["check", "--report"]).args([&file, &a, &b]).output();
    assert_eq!(check.unwrap().status.code(), Some(1));
    let page = Browser::start();
    page.post(
        "/url",
        &json!({"url": format!("file://{}", file.display())}),
    );
    page.until("#head", &["1 times two holders at once"]);
    page.until("#title", &["Histories"]);
    page.count("#time .bar", 2);
    page.count("#time .overlap", 1);
    page.count("#log .broken", 1);
    page.count("main", 1);
    assert_eq!(
        page.eval("return document.querySelector('main').offsetHeight"),
        0
    );
    page.eval(
        "document.querySelector('#time .overlap-top')\
         .dispatchEvent(new Event('pointerover', {bubbles: true}))",
    );
    page.until(
        "#details",
        &["Two holders of k: n1 and n2, from 0.000019 ms"],
    );
    page.eval(
        "const it = document.querySelector('#only'); it.value = 'k'; \
         it.dispatchEvent(new Event('change'))",
    );
    page.count("#time .bar", 2);
    page.complains_not();
}
