"""Research models that are not in diffusers: small, with the names, places and tensor flow of the real ones.

None of their code is here. Each stands on real layers of diffusers, whose blocks are run anew, from what
is known of the model.
"""
