//! Refusal of lists that verifiers do not support.

use x509_parser::{
    extensions::{DistributionPointName, IssuingDistributionPoint, ParsedExtension},
    revocation_list::CertificateRevocationList,
};

/// The reason that a list is unsupported. `None`: it is supported.
pub fn unsupported(list: &CertificateRevocationList<'_>) -> Option<String> {
    for extension in list.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::IssuingDistributionPoint(scope) => {
                if let Some(problem) = unsupported_scope(scope) {
                    return Some(problem.into());
                }
            }
            ParsedExtension::CRLNumber(_) | ParsedExtension::AuthorityKeyIdentifier(_) => {}
            _ if extension.oid.to_id_string() == DELTA => {
                return Some("it is a delta list, which contains only changes".into());
            }
            _ if extension.critical => {
                return Some(format!("it has the unknown critical extension {}", extension.oid));
            }
            _ => {}
        }
    }
    let mut entries = list.iter_revoked_certificates().flat_map(|entry| entry.extensions());
    entries.find_map(|extension| match extension.oid.to_id_string().as_str() {
        CERTIFICATE_ISSUER => Some("it has entries of other issuers (it is indirect)".to_owned()),
        REASON | INVALIDITY_DATE => None,
        oid => extension.critical.then(|| format!("an entry has the unknown critical extension {oid}")),
    })
}

const DELTA: &str = "2.5.29.27";
const REASON: &str = "2.5.29.21";
const INVALIDITY_DATE: &str = "2.5.29.24";
const CERTIFICATE_ISSUER: &str = "2.5.29.29";

fn unsupported_scope(scope: &IssuingDistributionPoint<'_>) -> Option<&'static str> {
    if scope.indirect_crl {
        return Some("it covers certificates of several issuers (indirectCRL)");
    }
    if scope.only_some_reasons.is_some() {
        return Some("it covers only some reasons of revocation (onlySomeReasons)");
    }
    if scope.only_contains_attribute_certs {
        return Some("it covers only attribute certificates (onlyContainsAttributeCerts)");
    }
    match &scope.distribution_point {
        Some(DistributionPointName::FullName(_)) => None,
        Some(DistributionPointName::NameRelativeToCRLIssuer(_)) => {
            Some("it names its distribution point relative to its issuer, not in full")
        }
        None if scope.only_contains_user_certs => {
            Some("it covers only user certificates (onlyContainsUserCerts), without a distribution point")
        }
        None if scope.only_contains_ca_certs => {
            Some("it covers only CA certificates (onlyContainsCACerts), without a distribution point")
        }
        None => Some("it has an issuing distribution point without a name"),
    }
}
