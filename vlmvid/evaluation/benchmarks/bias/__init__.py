"""Who is ranked, named and associated how."""
