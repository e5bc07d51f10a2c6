"""Small sites that do the same with each library's sessions. Their routes:

/begin              store a session of about 300 bytes
/read               look at one key
/change             raise one number by one
/set?key=k&wait=20  read the session, wait so many milliseconds, set one key of its own
/count?wait=20      read, wait, and count one more, as the library's documentation has it
/kept               how many of the keys that /set sets are there, and the counter: two numbers
"""
