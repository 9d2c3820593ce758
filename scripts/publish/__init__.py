"""From verified folders to a repository on the Hugging Face Hub, and back.

:mod:`.reports` reads reports, :mod:`.facts` gathers what they say of exactly these files. :mod:`.card` makes the page
and checks what it claims. :mod:`.repository` lists the repository's files, :mod:`.plan` compares them with the Hub's
and says all that is in the way, :mod:`.upload` publishes. :mod:`.fetch` gets one folder back.
"""
