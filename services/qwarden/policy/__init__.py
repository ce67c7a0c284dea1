"""What we do about what the guard says: policies and tenants. Pure: text in, decisions out."""
