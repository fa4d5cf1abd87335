//! Writes metric families.

use std::{
    borrow::Cow,
    fmt::{self, Write as _},
};

use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabel, EncodeLabelSet, EncodeMetric,
    LabelSetEncoder, MetricEncoder, NoLabelSet,
};

use super::family::Family;
use crate::{
    model::ObjectKey,
    printable::printable,
    proxy::accounting::{Bounds, HistogramTotals},
};

/// The maximum length of a label value, in bytes. Certificates are named by their file.
const MAX_LABEL: usize = 1024;

/// The usual length of a few labels, in bytes.
const TYPICAL_LABELS: usize = 128;

/// The labels of a series.
///
/// They are rendered once for all series of a listener or endpoint, because escaping and writing single labels takes
/// most of the time of a page.
#[derive(Clone, Debug)]
pub struct Labels<'a> {
    names: &'static [&'static str],
    /// The labels with these names: `a="1",b="2"`.
    text: Cow<'a, str>,
    /// The value of the label that follows `names` in the family.
    last: Option<&'static str>,
}

impl Labels<'static> {
    /// No labels.
    pub const NONE: Self = Self { names: &[], text: Cow::Borrowed(""), last: None };

    /// Labels with these names and values.
    pub fn new<V: AsRef<str>>(names: &'static [&'static str], values: impl IntoIterator<Item = V>) -> Self {
        Labels::NONE.followed_by(names, values)
    }

    /// The labels of a load balancer, followed by others.
    pub fn of<const N: usize>(names: &'static [&'static str], object: &ObjectKey, more: [String; N]) -> Self {
        let values = [&*object.namespace, &*object.name].into_iter().chain(more.iter().map(String::as_str));
        Self::new(names, values)
    }

    /// One label with a fixed value.
    pub fn only(value: &'static str) -> Self {
        Self { last: Some(value), ..Self::NONE }
    }
}

impl Labels<'_> {
    /// These labels and more. `names` are the names of all of them, `values` those of the new ones.
    pub fn followed_by<V: AsRef<str>>(
        &self,
        names: &'static [&'static str],
        values: impl IntoIterator<Item = V>,
    ) -> Labels<'static> {
        let mut text = String::with_capacity(self.text.len() + TYPICAL_LABELS);
        text.push_str(&self.text);
        for (name, value) in names[self.names.len()..].iter().zip(values) {
            let separator = if text.is_empty() { "" } else { "," };
            let value = printable(value.as_ref(), MAX_LABEL);
            for part in [separator, name, "=\"", &escaped(&value), "\""] {
                text.push_str(part);
            }
        }
        Labels { names, text: text.into(), last: None }
    }

    pub fn shared(&self) -> Labels<'_> {
        Labels { names: self.names, text: Cow::Borrowed(&self.text), last: self.last }
    }

    /// These labels, and one more with a fixed value.
    pub fn and(&self, value: &'static str) -> Labels<'_> {
        Labels { last: Some(value), ..self.shared() }
    }
}

/// Escapes the characters that end a label value. Line breaks are no longer in it.
fn escaped(value: &str) -> Cow<'_, str> {
    let has_special = value.bytes().any(|byte| matches!(byte, b'\\' | b'"'));
    if has_special { value.replace('\\', "\\\\").replace('"', "\\\"").into() } else { value.into() }
}

/// The labels of a series of a family.
struct SeriesLabels<'a>(&'static Family, Labels<'a>);

impl EncodeLabelSet for SeriesLabels<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        let Self(family, Labels { names, text, last }) = self;
        let (prefix, rest) = family.labels.split_at(names.len());
        debug_assert!(prefix == *names && rest.len() == usize::from(last.is_some()), "{}", family.name);
        if !text.is_empty() {
            // The key encoder writes text as it is. A label that follows gets its comma.
            encoder.encode_label().encode_label_key()?.write_str(text)?;
        }
        rest.iter()
            .zip(*last)
            .try_for_each(|(name, value)| EncodeLabel::encode(&(*name, value), encoder.encode_label()))
    }
}

/// Writes whole families.
pub struct Encoder<'a, 'b>(pub &'a mut DescriptorEncoder<'b>);

impl Encoder<'_, '_> {
    pub fn family(&mut self, family: &'static Family) -> Result<MetricEncoder<'_>, fmt::Error> {
        self.0.encode_descriptor(family.name, family.help, family.unit.as_ref(), family.kind)
    }

    pub fn counters<'l, V: EncodeCounterValue>(
        &mut self,
        family: &'static Family,
        series: impl IntoIterator<Item = (Labels<'l>, V)>,
    ) -> fmt::Result {
        let mut encoder = self.family(family)?;
        for (labels, value) in series {
            encoder.encode_family(&SeriesLabels(family, labels))?.encode_counter::<NoLabelSet, V, u64>(&value, None)?;
        }
        Ok(())
    }

    pub fn gauges<'l, V: EncodeGaugeValue>(
        &mut self,
        family: &'static Family,
        series: impl IntoIterator<Item = (Labels<'l>, V)>,
    ) -> fmt::Result {
        let mut encoder = self.family(family)?;
        for (labels, value) in series {
            encoder.encode_family(&SeriesLabels(family, labels))?.encode_gauge(&value)?;
        }
        Ok(())
    }

    /// Writes a metric of the library.
    pub fn metric(&mut self, family: &'static Family, metric: &impl EncodeMetric) -> fmt::Result {
        metric.encode(self.family(family)?)
    }

    pub fn histograms<'h>(
        &mut self,
        family: &'static Family,
        bounds: &Bounds,
        series: impl IntoIterator<Item = (Labels<'h>, &'h HistogramTotals)>,
    ) -> fmt::Result {
        // The library writes this bound as +Inf, which every histogram must have.
        let bounds = bounds.iter().copied().chain([f64::INFINITY]);
        let mut encoder = self.family(family)?;
        for (labels, totals) in series {
            let buckets: Vec<(f64, u64)> = bounds.clone().zip(totals.buckets).collect();
            let count = totals.buckets.iter().sum();
            encoder.encode_family(&SeriesLabels(family, labels))?.encode_histogram::<NoLabelSet>(
                totals.seconds,
                count,
                &buckets,
                None,
            )?;
        }
        Ok(())
    }
}

/// The counts above zero. Counters by reason or result omit the others, because most listeners and endpoints have only
/// a few.
pub fn occurred<const N: usize>(counts: [(&'static str, u64); N]) -> impl Iterator<Item = (&'static str, u64)> {
    counts.into_iter().filter(|(_, count)| *count > 0)
}
