//! The common parts of all SVG images.

/// Colors that are distinguishable in light and dark mode, and with red-green color blindness.
pub const COLOURS: [&str; 6] = ["#0a84ff", "#d98200", "#1f9d7a", "#a66bbf", "#c2415b", "#7a7f87"];

const STYLE: &str = "text{font:12px system-ui,sans-serif;fill:#1f2328}.dim{fill:#59636e}.line{stroke:#59636e}\
                     .grid{stroke:#59636e;stroke-opacity:.25}path{fill:none;stroke-width:1.8}\
                     @media(prefers-color-scheme:dark){text{fill:#e6edf3}.dim{fill:#9198a1}.line{stroke:#9198a1}\
                     .grid{stroke:#9198a1;stroke-opacity:.25}}";

/// An image with this SVG content.
pub fn picture(title: &str, width: f64, height: f64, drawn: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" role=\"img\">\n\
         <title>{}</title>\n<style>{STYLE}</style>\n{drawn}</svg>\n",
        escaped(title)
    )
}

pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
