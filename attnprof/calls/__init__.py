"""Attention calls: as recorded, and as files hold them."""
