//! meshsec: terraform for IPsec.
