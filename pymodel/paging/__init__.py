"""Page tables: geometry, entry formats, walks, update agents, and a bulk walker over numpy arrays.

Level 0 is the level of 4 KiB leaves; a table of depth d has levels d-1 (root) .. 0.
`start`/`end` are half-open byte addresses. An *entry* is one 64-bit word of a table; its *span* is the IOVA
range that it decides about.
"""
